"""Which map finds a memory whose place is known? Ours, our own earlier ones, and those of others, on equal terms."""
