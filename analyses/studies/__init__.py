"""Our own questions about engrams: one script each, with its JSON beside it."""
