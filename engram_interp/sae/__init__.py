"""Can a feature stand for a label? Concepts from where the features of a sparse autoencoder (SAE) fire."""
