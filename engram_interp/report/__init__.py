"""What does a person need to read? Self-contained HTML pages about a memory, a map and a diagnosis."""
