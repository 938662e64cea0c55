"""How does it look? Every figure is drawn here, from plain numbers."""
