"""How does a `HookedTransformer` multiply by its matrices, and where do they live?"""
