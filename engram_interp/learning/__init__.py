"""What does learning do to memories: when do they form, which part of a change carries them, what keeps them?"""
