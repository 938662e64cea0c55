"""What does an edit do? Its strength, the four criteria, ablations in part, and what one edit costs another concept."""
