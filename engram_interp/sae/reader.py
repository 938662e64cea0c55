"""What do an SAE's features do at every token? An SAE from sae-lens, at the place in a model where it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, SupportsIndex, TypeAlias, cast

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from engram_interp.concepts.batches import batches, encode_groups
from engram_interp.concepts.concept import Example, TokenExample
from engram_interp.models import LanguageAdapter
from engram_interp.options import Read, Run
from engram_interp.sae.corpus import text_of
from engram_interp.sae.loading import for_inference, hook_of
from engram_interp.sae.rule import Reading

Index: TypeAlias = SupportsIndex | float
"""The index of a feature: a whole number. It may be a float, because a row of a table turns integers into floats."""

Member: TypeAlias = tuple[str, int]
"""An example by its group's name and its place in the group."""

ENCODED_AT_ONCE = 2**26
"""How many feature activations are computed at a time, at most: a wide SAE has many for every token."""


class SaeReader:
    """An SAE at its place in a model.

    Args:
        adapter: the model.
        sae: any `sae_lens.SAE`.

    Raises:
        ImportError: if sae-lens is not installed.
        TypeError: if `sae` is not a `sae_lens.SAE`.
        ValueError: if the SAE does not say where it reads, or says that it belongs to another model.
    """

    def __init__(self, adapter: LanguageAdapter, sae: Any) -> None:
        self.adapter = adapter
        self.sae = for_inference(sae)
        self.hook = hook_of(self.sae, adapter)
        self.d_sae = int(self.sae.cfg.d_sae)

    @property
    def decode(self) -> Callable[[list[int]], str] | None:
        """From tokens to text for people, special tokens included. None if the model has no tokenizer."""
        tokenizer: Any = self.adapter.encoder.tokenizer
        return None if tokenizer is None else partial(tokenizer.decode, clean_up_tokenization_spaces=False)

    def features(self, indices: object) -> tuple[int, ...]:
        """One index or several as a tuple, without repetitions.

        Raises:
            TypeError: if anything but whole numbers is given.
            ValueError: if no index is given, or one that the SAE does not have.
        """
        wanted = f"feature must be an index from 0 to {self.d_sae - 1}, or a list of them; got {indices!r}"
        given = np.asarray(list(indices) if isinstance(indices, Iterable) and np.ndim(cast(Any, indices)) else indices)
        if given.dtype == bool or given.dtype.kind not in "iuf" or given.ndim > 1 or (given % 1).any():
            raise TypeError(wanted)
        if not given.size or given.min() < 0 or given.max() >= self.d_sae:
            raise ValueError(wanted)
        return tuple(dict.fromkeys(given.reshape(-1).astype(int).tolist()))

    def readings(
        self, corpus: Sequence[Example], features: Sequence[int], run: Run, read: Read | None = None
    ) -> list[Reading]:
        """What these features do at the tokens of every example."""
        found = {
            number: reading for (_, number), reading in self.by_example({"corpus": corpus}, list(features), run, read)
        }
        return [found[number] for number in range(len(corpus))]

    def by_example(
        self, groups: Mapping[str, Sequence[Example]], features: list[int] | slice, run: Run, read: Read | None = None
    ) -> Iterator[tuple[Member, Reading]]:
        """Yields every example of every group once, in any order, with what these features do in it."""
        encoder = self.adapter.encoder
        encoded = encode_groups(groups, encoder, read)
        for members, _, activation in self.pieces(encoded, run):
            for (name, number), rows in zip(members, activation[..., features].float().cpu(), strict=True):
                example = encoded[name][number]
                text = text_of(groups[name][number], example, encoder)
                # Other tokens may have any activation: BOS is large in many models, and padding belongs to no example.
                found = self.finite(rows[: len(text)].where(text[:, None], 0.0))
                yield (name, number), Reading(example.tokens, example.counts, text, found, example.answer)

    def pieces(
        self, encoded: dict[str, list[TokenExample]], run: Run
    ) -> Iterator[tuple[list[Member], Tensor, Float[Tensor, "example pos d_sae"]]]:
        """Yields a few examples at a time: which they are, what the SAE reads of them, and its features."""
        names = list(encoded)
        for batch in batches(encoded, run.batch_size, run.progress, "reading features"):
            x = read_by(self.sae, self.adapter.read(batch, self.hook), self.adapter, self.hook)
            places = torch.stack([batch.groups, batch.numbers], 1).tolist()
            members = [(names[group], number) for group, number in places]
            at_once = max(1, ENCODED_AT_ONCE // (batch.tokens.shape[1] * self.d_sae))
            for start in range(0, len(members), at_once):
                piece = x[start : start + at_once]
                with torch.no_grad():
                    activation = self.sae.encode(piece)
                yield members[start : start + at_once], piece, activation

    def finite(self, activation: Float[Tensor, "n feature"]) -> Float[Tensor, "n feature"]:
        """The activations themselves.

        Raises:
            ValueError: if one of them is not finite.
        """
        if not activation.isfinite().all():
            raise ValueError(f"the SAE's features at {self.hook} are not finite: run the SAE in a wider dtype")
        return activation


def read_by(
    sae: Any, x: Float[Tensor, "example pos ..."], adapter: LanguageAdapter, hook: str
) -> Float[Tensor, "example pos ..."]:
    """What an SAE reads of a hook point's activation: all of it, one head of it, or its heads side by side.

    Raises:
        ValueError: if its width is not the one that the SAE reads.
    """
    head, d_in = sae.cfg.metadata.hook_head_index, int(sae.cfg.d_in)
    found = x.flatten(2)
    if head is not None:
        found = _one_head(x, head, d_in, f"{hook} of {adapter.info.name!r}")
    if found.shape[2] != d_in:
        raise ValueError(
            f"the SAE reads {d_in} numbers per token, but {hook} of {adapter.info.name!r} has {found.shape[2]}: the "
            f"SAE was trained on another model or another place"
        )
    if sae.hook_z_reshaping_mode:
        found = rearrange(found, "example pos (head d) -> example pos head d", head=adapter.n_heads)
    return found.to(next(sae.parameters()).device)


def _one_head(
    x: Float[Tensor, "example pos ..."], head: int, d_head: int, where: str
) -> Float[Tensor, "example pos d"]:
    """One head of an activation that keeps heads apart, or has them side by side as a bridge's has."""
    n_heads = x.shape[2] if x.dim() == 4 else x.shape[2] // d_head
    if not 0 <= head < n_heads or x.flatten(2).shape[2] != n_heads * d_head:
        raise ValueError(f"the SAE reads head {head} of {d_head} numbers, but {where} has shape {list(x.shape[2:])}")
    return x.flatten(2).unflatten(2, (n_heads, -1))[:, :, head]
