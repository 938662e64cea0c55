"""How do several processes share the work? Batches are dealt out, and inputs have owners."""
