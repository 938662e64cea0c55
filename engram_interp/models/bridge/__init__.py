"""How does a `TransformerBridge` multiply by its matrices, and where do they live?"""
