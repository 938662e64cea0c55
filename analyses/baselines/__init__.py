"""Gradient unlearning, to compare engrams with: losses from their papers, and one training loop for all of them."""
