"""A small trained model, its SAE and its fictional authors, offline: `load("full")`, `load_sae()`, `authors()`."""

from engram_interp.testbed.authors import QA, Author, Corpus, authors
from engram_interp.testbed.model import load
from engram_interp.testbed.sae import load_sae

__all__ = ["QA", "Author", "Corpus", "authors", "load", "load_sae"]
