"""A small trained model and its fictional authors, offline: `authors()` and `load("base" | "full" | "retain")`."""

from engram_interp.testbed.authors import QA, Author, Corpus, authors
from engram_interp.testbed.model import load

__all__ = ["QA", "Author", "Corpus", "authors", "load"]
