"""`load("full")`, `load_sae()`, `authors()`: a small trained model, its SAE and its fictional authors, offline."""

from engram_interp.testbed.authors import Author, Corpus, authors, benchmark
from engram_interp.testbed.model import load
from engram_interp.testbed.sae import load_sae

__all__ = ["Author", "Corpus", "authors", "benchmark", "load", "load_sae"]
