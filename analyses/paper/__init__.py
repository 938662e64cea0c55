"""The tables and figures of the paper, made again: one script each, with its JSON beside it."""
