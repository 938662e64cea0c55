"""How does a memory survive what is learned next?"""
