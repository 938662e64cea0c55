"""Scripts behind every published number: the paper's tables and figures, our own studies, and the models they use."""
