"""Gradient unlearning, to compare with: losses from their papers, and one training loop for all of them."""
