"""TransformerLens, imported so that other libraries' logging stays as it was.

Its bridge sets the level of transformers' logger to ERROR when it is imported, which hides transformers' own report of
weights that are missing from a checkpoint.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging


@contextmanager
def unchanged_verbosity() -> Iterator[None]:
    """The level of transformers' logger, set back when the block ends."""
    before = transformers_logging.get_verbosity()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


with unchanged_verbosity():
    from transformer_lens import ActivationCache
    from transformer_lens.model_bridge import TransformerBridge

__all__ = ["ActivationCache", "TransformerBridge", "unchanged_verbosity"]
