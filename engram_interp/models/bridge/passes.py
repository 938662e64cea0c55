"""How is a `TransformerBridge` run over a batch, and for the tokens that come next?"""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from engram_interp.concepts.batches import Batch
from engram_interp.models.bridge.copying import modules_of
from engram_interp.models.bridge.parts import wrapped
from engram_interp.models.evaluation import evaluation_mode
from engram_interp.models.hooks import PRE_HOOK, Stopped, hooked
from engram_interp.models.lens import TransformerBridge

logger = logging.getLogger("engram_interp")


@torch.no_grad()
def forward(model: TransformerBridge, name: str, batch: Batch) -> None:
    """One forward pass, which a hook may end.

    Raises:
        ValueError: if the model attends in both directions and the batch has padding.
    """
    with suppress(Stopped):
        _run(model, name, batch, None)


def logits(model: TransformerBridge, name: str, batch: Batch) -> Float[Tensor, "batch pos d_vocab"]:
    """Next-token logits at every position, which can be differentiated.

    Raises:
        ValueError: see `forward`.
    """
    return _run(model, name, batch, "logits")


def _run(model: TransformerBridge, name: str, batch: Batch, returned: str | None) -> Any:
    # Padding is on the right, where causal attention keeps it from what counts. A mask would change nothing, and makes
    # TransformerLens's bridge of the first GPT attend to what comes after.
    mask = None if model.adapter.supports_causal_loss else batch.attention_mask.long().to(_device(model))
    if type(model.original_model).__name__.endswith("ForMaskedLM") and not batch.attention_mask.all():
        raise ValueError(
            f"{name!r} attends in both directions, so padding would reach the tokens that count: give examples of one "
            f"length, or batch_size=1"
        )
    # A bridge around a model made in memory starts in training mode.
    with evaluation_mode(modules_of(model)):
        # Nothing is generated, but OLMo-2 in bf16 runs only with its cache, so use_cache=False is not passed.
        return model(batch.tokens.to(_device(model)), return_type=returned, attention_mask=mask)


@torch.no_grad()
def unembed(model: TransformerBridge, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
    """Next-token logits, with whatever scale or cap the model's own forward pass puts on them.

    The model runs over a single token, and its unembedding reads the rows in place of that token's.
    """

    def replace(_module: object, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
        return (rows[None].to(args[0].device), *args[1:]), kwargs

    with hooked([(model.unembed, replace, PRE_HOOK)]), evaluation_mode(modules_of(model)):
        return model(torch.zeros(1, 1, dtype=torch.long, device=_device(model)))[0]


@torch.no_grad()
def next_logits(
    model: TransformerBridge,
    name: str,
    tokens: Int[Tensor, "batch pos"],
    seen: Any,
    mask: Bool[Tensor, "batch total"] | None,
) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
    """Logits of what comes next, and Hugging Face's cache if it holds all that was seen.

    Between some releases of transformers and TransformerLens the cache comes back empty. Then what was seen is None,
    and a warning says so once.

    Raises:
        RuntimeError: if the cache loses tokens after it has held some.
    """
    n_before = _length(seen)
    options: dict[str, Any] = {} if seen is None else {"past_key_values": seen}
    if mask is not None:
        options["attention_mask"] = mask.long().to(_device(model))
    with evaluation_mode(modules_of(model)), warnings.catch_warnings():
        # TransformerLens passes the cache on under the name that it had before transformers 5.24.
        warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)
        logits, kept = model(tokens.to(_device(model)), use_cache=True, return_type="logits_and_cache", **options)
    if _length(kept) == n_before + tokens.shape[1]:
        return logits[:, -1], kept
    if n_before:
        raise RuntimeError(
            f"the cache of {name!r} must hold the {n_before} tokens seen before and {tokens.shape[1]} more; it holds "
            f"{_length(kept)}"
        )
    say_that_nothing_is_kept()
    return logits[:, -1], None


@cache
def say_that_nothing_is_kept() -> None:
    """Warn, once."""
    logger.warning(
        "transformers %s and transformer-lens %s lose the key/value cache between them: answers are right, but every "
        "token of them is computed from the start", version("transformers"), version("transformer-lens"),
    )  # fmt: skip


def _length(seen: Any) -> int:
    """How many tokens Hugging Face's cache holds."""
    return 0 if seen is None else int(seen.get_seq_length())


def _device(model: TransformerBridge) -> torch.device:
    return wrapped(model.embed).weight.device
