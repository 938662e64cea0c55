"""Small things that every room uses: checked arguments, bars, files that are written whole, HTML."""
