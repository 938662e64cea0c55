"""What do an SAE's features do at every token? An SAE from sae-lens, at the place in a model where it reads."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, SupportsIndex, TypeAlias, cast

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from engram_interp.concepts.concept import Encoder, Example, TokenExample, batches, encode_groups
from engram_interp.models import Adapter
from engram_interp.models.loading import same_model
from engram_interp.sae.partition import Reading, firing

Corpus: TypeAlias = Sequence[Example] | Tensor
"""Examples as `Concept` takes them, or rows of tokens, `[n pos]`."""

Index: TypeAlias = SupportsIndex | float
"""A feature: a whole number, which in a row of a table may be a float."""

UNFOLDED = ("expected_average_only_in", "covariance_whitening")
"""Normalisations that training does outside of the SAE, and that are folded into its weights when it is saved."""

ENCODED_AT_ONCE = 2**26
"""Feature activations computed at a time, at most: a wide SAE makes many of every token."""

logger = logging.getLogger("engram_interp")


@dataclass(frozen=True)
class Rates:
    """How often every feature fires in a group of examples.

    Attributes:
        n_examples: how many examples there are.
        n_tokens: how many tokens of text.
        examples: `[d_sae]`, the number of examples in which it fires anywhere.
        tokens: `[d_sae]`, the number of tokens at which it fires.
        peaks: `[d_sae]`, the sum over examples of the largest activation, at least 0.
    """

    n_examples: int
    n_tokens: int
    examples: Float[Tensor, "d_sae"]
    tokens: Float[Tensor, "d_sae"]
    peaks: Float[Tensor, "d_sae"]


@dataclass(frozen=True)
class Reconstruction:
    """How well an SAE says what its model's activations are.

    Attributes:
        explained_variance: `1 - |x - x'|^2 / |x - mean|^2`, over tokens.
        l0: features above zero at a token, on average.
        dead: the share of features that are above zero nowhere in the corpus.
        n_tokens: how many tokens.
    """

    explained_variance: float
    l0: float
    dead: float
    n_tokens: int


class SaeReader:
    """An SAE at its place in a model.

    Args:
        adapter: the model.
        sae: any `sae_lens.SAE`.

    Raises:
        ImportError: sae-lens is not installed.
        TypeError: something else than an SAE.
        ValueError: an SAE that does not say where it reads, or that says that it is of another model.
    """

    def __init__(self, adapter: Adapter, sae: Any) -> None:
        self.adapter = adapter
        self.sae = _for_inference(sae)
        metadata = self.sae.cfg.metadata
        # An absent key of the metadata reads as None.
        if not metadata.hook_name:
            raise ValueError(
                "the SAE's cfg.metadata has no hook_name, so it does not say what it reads: set "
                "sae.cfg.metadata.hook_name, as 'blocks.5.hook_resid_post'"
            )
        if metadata.model_name and not same_model(str(metadata.model_name), adapter.info.name):
            raise ValueError(
                f"the SAE was trained on {metadata.model_name!r}, the model given is {adapter.info.name!r}; if that is "
                f"a copy of it under another name, set sae.cfg.metadata.model_name = {adapter.info.name!r}"
            )
        self.hook = str(metadata.hook_name)
        self._head: int | None = metadata.hook_head_index
        self.d_sae = int(self.sae.cfg.d_sae)

    @property
    def decode(self) -> Callable[[list[int]], str] | None:
        """Tokens to text, for people, special ones too; None without a tokenizer."""
        tokenizer: Any = self.adapter.encoder.tokenizer
        return None if tokenizer is None else partial(tokenizer.decode, clean_up_tokenization_spaces=False)

    def features(self, indices: object) -> tuple[int, ...]:
        """One index or several, each once.

        Raises:
            TypeError: something else than whole numbers.
            ValueError: none, or one that the SAE does not have.
        """
        wanted = f"a feature is an index, 0 to {self.d_sae - 1}, or a list of such; got {indices!r}"
        given = np.asarray(list(indices) if isinstance(indices, Iterable) and np.ndim(cast(Any, indices)) else indices)
        if given.dtype == bool or given.dtype.kind not in "iuf" or given.ndim > 1 or (given % 1).any():
            raise TypeError(wanted)
        if not given.size or given.min() < 0 or given.max() >= self.d_sae:
            raise ValueError(wanted)
        return tuple(dict.fromkeys(given.reshape(-1).astype(int).tolist()))

    def readings(
        self, corpus: Sequence[Example], features: Sequence[int], batch_size: int, progress: bool | None
    ) -> list[Reading]:
        """What these features do at the tokens of every example."""
        found: dict[int, Reading] = {}
        for _, number, reading in self._by_example({"corpus": corpus}, list(features), batch_size, progress):
            found[number] = reading
        return [found[number] for number in range(len(corpus))]

    def rates(
        self, groups: Mapping[str, Sequence[Example]], threshold: float, batch_size: int, progress: bool | None
    ) -> dict[str, Rates]:
        """How often every feature fires, by group."""
        sums = {name: torch.zeros(3, self.d_sae, dtype=torch.float64) for name in groups}
        sizes = {name: [0, 0] for name in groups}
        for name, _, reading in self._by_example(groups, slice(None), batch_size, progress):
            if not len(activation := reading.activation[reading.text]):
                continue
            fires = firing(activation, threshold)
            sums[name] += torch.stack([fires.any(0), fires.sum(0), activation.amax(0).clamp(min=0)])
            sizes[name] = [sizes[name][0] + 1, sizes[name][1] + len(activation)]
        return {name: Rates(sizes[name][0], sizes[name][1], *sums[name].unbind()) for name in groups}

    def reconstruction(self, corpus: Sequence[Example], batch_size: int, progress: bool | None) -> Reconstruction:
        """See the function of that name."""
        kind = self.sae.cfg.architecture()
        if "transcoder" in kind or kind == "temporal":
            raise NotImplementedError(
                f"what a {kind} SAE decodes is not, or not all of, what it reads at {self.hook}: there is nothing to "
                f"compare"
            )
        encoded = encode_groups({"corpus": corpus}, self.adapter.encoder)
        texts = self._texts({"corpus": corpus}, encoded)["corpus"]
        total = torch.zeros(int(self.sae.cfg.d_in), dtype=torch.float64)
        squared, missed, n_fired = 0.0, 0.0, 0
        ever, n = torch.zeros(self.d_sae, dtype=torch.bool), 0
        for members, x, activation in self._pieces(encoded, batch_size, progress):
            with torch.no_grad():
                said = self.sae.decode(activation)
            text = pad_sequence([texts[number] for _, number in members], batch_first=True)
            rows, back = (one.flatten(2)[:, : text.shape[1]].cpu()[text].double() for one in (x, said))
            fires = firing(self._finite(activation[:, : text.shape[1]].cpu()[text]), 0.0)
            total += rows.sum(0)
            squared += float(rows.square().sum())
            missed += float((rows - back).square().sum())
            n, n_fired, ever = n + len(rows), n_fired + int(fires.sum()), ever | fires.any(0)
        variance = squared - float(total.square().sum()) / max(n, 1)
        if variance <= 1e-9 * squared:
            raise ValueError(f"{n} tokens of text have nothing to explain between them: give a wider corpus")
        return Reconstruction(1 - missed / variance, n_fired / n, float((~ever).double().mean()), n)

    def _by_example(
        self,
        groups: Mapping[str, Sequence[Example]],
        features: list[int] | slice,
        batch_size: int,
        progress: bool | None,
    ) -> Iterator[tuple[str, int, Reading]]:
        """Every example's group, its place in it, and what these features do there."""
        encoded = encode_groups(groups, self.adapter.encoder)
        texts = self._texts(groups, encoded)
        for members, _, activation in self._pieces(encoded, batch_size, progress):
            for (name, number), rows in zip(members, activation[..., features].float().cpu(), strict=True):
                example, text = encoded[name][number], texts[name][number]
                # What is no text may be anything: BOS is large in many models, and padding is not theirs.
                found = self._finite(rows[: len(text)].where(text[:, None], 0.0))
                yield name, number, Reading(example.tokens, example.counts, text, found)

    def _texts(
        self, groups: Mapping[str, Sequence[Example]], encoded: Mapping[str, Sequence[TokenExample]]
    ) -> dict[str, list[Tensor]]:
        """Which of every example's tokens are text; of examples given as tokens, those that count."""
        unread = torch.tensor(self.adapter.encoder.unread, dtype=torch.long)

        def text(given: Example, example: TokenExample) -> Tensor:
            if isinstance(given, TokenExample):
                return example.counts
            return example.counts | ~torch.isin(example.tokens, unread)

        return {
            name: [text(*pair) for pair in zip(groups[name], examples, strict=True)]
            for name, examples in encoded.items()
        }

    def _pieces(
        self, encoded: dict[str, list[TokenExample]], batch_size: int, progress: bool | None
    ) -> Iterator[tuple[list[tuple[str, int]], Tensor, Float[Tensor, "example pos d_sae"]]]:
        """A few examples at a time: which they are, what the SAE reads of them, and its features."""
        names = list(encoded)
        for batch in batches(encoded, batch_size, progress, "reading features"):
            x = self._input(self.adapter.read(batch, self.hook))
            members = [
                (names[group], number) for group, number in torch.stack([batch.groups, batch.numbers], 1).tolist()
            ]
            at_once = max(1, ENCODED_AT_ONCE // (batch.tokens.shape[1] * self.d_sae))
            for start in range(0, len(members), at_once):
                piece = x[start : start + at_once]
                with torch.no_grad():
                    activation = self.sae.encode(piece)
                yield members[start : start + at_once], piece, activation

    def _finite(self, activation: Float[Tensor, "n feature"]) -> Float[Tensor, "n feature"]:
        if not activation.isfinite().all():
            raise ValueError(f"the SAE's features at {self.hook} are not finite: run it in a wider dtype")
        return activation

    def _input(self, x: Float[Tensor, "example pos ..."]) -> Float[Tensor, "example pos ..."]:
        """What the SAE reads of a hook point's activation: one head of it, heads side by side, or all of it.

        Raises:
            ValueError: it is of another width than the SAE reads.
        """
        if self._head is not None:
            x = self._one_head(x, self._head)
        if (found := x.flatten(2).shape[2]) != self.sae.cfg.d_in:
            raise ValueError(
                f"the SAE reads {self.sae.cfg.d_in} numbers a token, {self.hook} of {self.adapter.info.name!r} carries "
                f"{found}: it was trained on another model or another place"
            )
        if self.sae.hook_z_reshaping_mode:
            x = rearrange(x.flatten(2), "example pos (head d) -> example pos head d", head=self.adapter.n_heads)
        else:
            x = x.flatten(2)
        return x.to(next(self.sae.parameters()).device)

    def _one_head(self, x: Float[Tensor, "example pos ..."], head: int) -> Float[Tensor, "example pos d"]:
        """One head of an activation that has heads apart, or side by side, as a bridge's."""
        n_heads = x.shape[2] if x.dim() == 4 else x.shape[2] // int(self.sae.cfg.d_in)
        if not 0 <= head < n_heads or x.flatten(2).shape[2] != n_heads * self.sae.cfg.d_in:
            raise ValueError(
                f"the SAE reads head {head} of {self.sae.cfg.d_in} numbers, {self.hook} of {self.adapter.info.name!r} "
                f"carries {list(x.shape[2:])}"
            )
        return x.flatten(2).unflatten(2, (n_heads, -1))[:, :, head]


def sae_lens() -> ModuleType:
    """The package sae-lens, which is an extra.

    Raises:
        ImportError: it is not installed, or does not go with the TransformerLens that is.
    """
    try:
        return importlib.import_module("sae_lens")
    except ImportError as error:
        raise ImportError(
            "SAE features need sae-lens: pip install 'engram-interp[sae]' (with transformer-lens 3: there is no "
            f"sae-lens for 4). Importing it said: {error}"
        ) from error


def _for_inference(sae: Any) -> Any:
    """The SAE; of one in training, what it would save: the activations of some depend on the rest of their batch."""
    SAE, TrainingSAE = sae_lens().SAE, sae_lens().TrainingSAE
    if not isinstance(sae, SAE):
        raise TypeError(f"expected a sae_lens.SAE, got {type(sae).__module__}.{type(sae).__name__}")
    if sae.cfg.normalize_activations in UNFOLDED:
        logger.warning(
            "the SAE expects activations scaled as in its training (%s), which is not folded into its weights: its "
            "features may fire elsewhere than they should", sae.cfg.normalize_activations,
        )  # fmt: skip
    if not isinstance(sae, TrainingSAE):
        return sae
    weights = {name: tensor.detach().clone() for name, tensor in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(weights)
    saved = SAE.from_dict(sae.cfg.get_inference_sae_cfg_dict())
    saved.process_state_dict_for_loading(weights)
    saved.load_state_dict(weights)
    return saved


def listed(corpus: Corpus, encoder: Encoder) -> Sequence[Example]:
    """Examples; of rows of tokens, BOS and padding do not count, and padding in front is left away.

    Raises:
        ValueError: a tensor of something else than rows of tokens.
    """
    if not isinstance(corpus, Tensor):
        return corpus
    if corpus.dim() != 2 or corpus.is_floating_point() or corpus.dtype == torch.bool:
        raise ValueError(f"a corpus of tokens is integers [n pos], got {corpus.dtype} of shape {list(corpus.shape)}")
    unread = torch.tensor(encoder.unread, dtype=torch.long)
    rows = (_from_its_beginning(row, ~torch.isin(row, unread), encoder.bos) for row in corpus.long().cpu())
    return [TokenExample(row, ~torch.isin(row, unread)) for row in rows]


def _from_its_beginning(row: Int[Tensor, "pos"], read: Bool[Tensor, "pos"], bos: int | None) -> Int[Tensor, "kept"]:
    """A row without padding in front of BOS or of the text: a model would attend to it."""
    start = int(read.int().argmax())
    return row[start - 1 :] if start and int(row[start - 1]) == bos else row[start:]
