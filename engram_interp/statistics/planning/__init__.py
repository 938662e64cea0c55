"""What will it take? Bytes, passes and seconds, from shapes alone."""
