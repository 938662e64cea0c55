"""Which part of a weight is it? Engrams: made, taken apart, edited into a model and exported."""
