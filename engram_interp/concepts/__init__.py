"""What is looked for? Examples of a target and of a reference, and the token batches that a model reads."""
