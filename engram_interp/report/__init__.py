"""What is there to read? One page about one memory."""
