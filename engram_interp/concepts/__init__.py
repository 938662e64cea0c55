"""What is looked for? Examples on two sides, and the tokens and positions that a model reads of them."""
