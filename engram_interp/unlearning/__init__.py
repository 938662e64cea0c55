"""Is it forgotten? Benchmarks of questions, and the paper's scores of a model's answers."""
