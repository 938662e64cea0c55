"""What does the model say? Its scores on given answers, and the answers that it writes itself."""
