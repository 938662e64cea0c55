"""Where do statistics lie that memory does not hold? In a folder: a file for each input, and an index that counts."""
