"""How does it look? Every figure, from plain numbers."""
