"""`load("full")`, `load_classifier()`, `authors()`, `pictures()`: small trained models and their data, offline."""

from engram_interp.testbed.authors import Author, Corpus, authors, benchmark
from engram_interp.testbed.classifier import load_classifier
from engram_interp.testbed.model import load
from engram_interp.testbed.pictures import pictures
from engram_interp.testbed.sae import load_sae

__all__ = ["Author", "Corpus", "authors", "benchmark", "load", "load_classifier", "load_sae", "pictures"]
