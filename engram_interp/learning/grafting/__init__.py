"""Which part of `W - W_0` carries a memory?"""
