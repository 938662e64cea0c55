"""When does a memory form, and does it move?"""
