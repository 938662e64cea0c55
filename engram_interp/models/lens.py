"""TransformerLens, imported so that the logging of other libraries stays as it was.

When its bridge is imported, it sets the level of transformers' logger to ERROR. That would hide transformers' report of
weights that are missing from a checkpoint.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging


@contextmanager
def unchanged_verbosity() -> Iterator[None]:
    """Set the level of transformers' logger back when the block ends."""
    before = transformers_logging.get_verbosity()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


with unchanged_verbosity():
    from transformer_lens import ActivationCache
    from transformer_lens.model_bridge import TransformerBridge

__all__ = ["ActivationCache", "TransformerBridge", "unchanged_verbosity"]
