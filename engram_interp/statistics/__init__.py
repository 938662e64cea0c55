"""What does every matrix read? One pass over the examples: second moments, or the rows themselves."""
