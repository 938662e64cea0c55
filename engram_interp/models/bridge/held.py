"""What does a module multiply by, if that is not in memory as it multiplies? An offloaded or a quantised weight, read.

accelerate holds offloaded weights on the CPU or on disk. bitsandbytes holds rounded ones, and multiplies by what they
stand for. Either may be read, as a copy; an edit of a copy would edit nothing.
"""

from __future__ import annotations

from typing import Any

from accelerate.utils import align_module_device
from torch import Tensor


def is_bitsandbytes(module: object) -> bool:
    """Whether a module is a linear layer of bitsandbytes'."""
    return type(module).__module__.partition(".")[0] == "bitsandbytes"


def is_offloaded(module: Any) -> bool:
    """Whether accelerate keeps a module's weight elsewhere."""
    return module.weight.device.type == "meta" and hasattr(module, "_hf_hook")


def why_not_editable(module: Any) -> str | None:
    """Why a module's weight cannot be edited; None if it can."""
    if is_bitsandbytes(module):
        return f"is quantised by bitsandbytes ({type(module).__name__})"
    return "is offloaded, and only a copy of it is in memory" if is_offloaded(module) else None


def tensor_of(module: Any, name: str) -> Tensor | None:
    """A module's `weight` or `bias`, or a copy of what it stands for.

    Args:
        module: a linear layer.
        name: `weight` or `bias`.
    """
    if is_offloaded(module):
        with align_module_device(module):
            found = getattr(module, name)
            return None if found is None else found.detach().clone()
    if name == "weight" and is_bitsandbytes(module):
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight  # it imports bitsandbytes

        return dequantize_bnb_weight(module.weight, state=getattr(module, "state", None)).detach()
    return getattr(module, name, None)
