"""How does freed memory go back to the system? glibc keeps it, up to a GB after a pass, for what comes next."""

from __future__ import annotations

import ctypes
import sys


def give_back_freed() -> None:
    """Give freed memory back, by `malloc_trim` of glibc. Does nothing where the C library has no such function."""
    if not sys.platform.startswith("linux"):
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
