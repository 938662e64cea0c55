"""What does a memory look like from all sides? A page to click through: map, matrices, strengths, other memories."""
