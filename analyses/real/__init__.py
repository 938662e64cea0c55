"""What does the method do on a real language model? SmolLM2-135M-Instruct, which `ei.load_model` brings by itself."""
