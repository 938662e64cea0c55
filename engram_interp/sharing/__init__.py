"""How do results get from one person to another? A folder or a repository on the Hugging Face hub, with a card."""
