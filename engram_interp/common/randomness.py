"""Who owns the global random generators? The user: code that draws from them or seeds them restores them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def unchanged_randomness() -> Iterator[None]:
    """Restores the global generators of Python, NumPy and torch when the block ends.

    Example:
        >>> before = torch.get_rng_state()
        >>> with unchanged_randomness():
        ...     _ = torch.manual_seed(0)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
