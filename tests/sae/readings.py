"""Readings of one feature, as short as a test can write them."""

import torch

from engram_interp.sae.rule import Reading


def reading(activation, tokens=None, counts=None, text=None) -> Reading:
    """One feature, every token text that counts unless said otherwise."""
    n = len(activation)
    everywhere = [True] * n
    return Reading(
        torch.tensor(tokens or list(range(n))),
        torch.tensor(counts or everywhere),
        torch.tensor(text or everywhere),
        torch.tensor(activation, dtype=torch.float32)[:, None],
    )


def places(masks) -> list[list[int]]:
    return [mask.nonzero().flatten().tolist() for mask in masks]
