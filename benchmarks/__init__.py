"""How fast is it? `python -m benchmarks` prints one table of ratios; see `benchmarks/__main__.py`."""
