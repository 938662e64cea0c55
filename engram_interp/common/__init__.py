"""What does every room use? Checked arguments, progress bars, files that are written whole, and HTML."""
