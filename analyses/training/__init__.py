"""How the testbed's models and its sparse autoencoder, and the models on TOFU's text, were trained."""
