"""How does any other `torch.nn.Module` multiply by its weights, and where do they live?"""
