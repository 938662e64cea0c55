"""Model or engram + the Hugging Face checkpoint that it came from -> the edited checkpoint."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from engram_interp.concept import Batch
from engram_interp.engram import Alpha, Engram
from engram_interp.models import Adapter, ModelInfo, adapt
from engram_interp.models.loading import bridge_of, checkpoint_folder, has_tokenizer
from engram_interp.models.transformer_bridge import TransformerBridgeAdapter

logger = logging.getLogger("engram_interp")

EXACT, ROUNDED = 1e-3, 0.1
"""Relative difference of logits, median over tokens, between models in float32, and where one of them is coarser."""


@torch.no_grad()
def export_hf(
    edited: nn.Module | Engram,
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    alpha: Alpha = 1.0,
) -> Path:
    """Write the edit of a Hugging Face checkpoint as another one, which `AutoModelForCausalLM.from_pretrained` loads.

    What the edit does not touch stays as it was, and weights keep the checkpoint's dtype, to which the edit is rounded
    once. Before anything is written, the new checkpoint must give the edited model's logits. An edit of `W_U` in a
    model whose unembedding is its embedding gives it an unembedding of its own (`tie_word_embeddings` is false in the
    new configuration), and a warning is logged.

    Args:
        edited: an edited model, or an engram to subtract. Either comes from the source's weights, unprocessed.
        source: the checkpoint, a folder or a name on the hub.
        out_dir: the folder to write; it may exist, but not hold a model.
        alpha: for an engram, how strongly to ablate it; see `Engram.ablate`. An edited model is written as it is.

    Returns:
        The folder.

    Raises:
        ValueError: processed weights, another model's, a bias that the checkpoint has no place for, an edit of more
            than the matrices that an engram has, a folder that holds a model already, or an `alpha` for a model.
    """
    out, folder = Path(out_dir).expanduser(), checkpoint_folder(source)
    require_no_model(out)
    _require_raw(edited.info if isinstance(edited, Engram) else adapt(edited).info)
    if isinstance(edited, Engram):
        edited.alphas(alpha)
    elif alpha != 1.0:
        raise ValueError(f"alpha is for engrams, got alpha={alpha!r} for a model, which is written as it is")
    source = source if folder is None else folder
    # One stands behind the bridge that knows which tensor is which; the other is saved as Hugging Face made it.
    behind, exported = _load(source), _load(source)
    checkpoint = dict(behind.named_parameters(remove_duplicate=False))
    adapter = TransformerBridgeAdapter(bridge_of(str(source), behind))
    _require_unchanged(checkpoint, exported)
    with _edit(edited, adapter, alpha):
        adapter.unsplit(checkpoint.values())
        _write(adapter, checkpoint, exported)
        _require_same_logits(adapter if isinstance(edited, Engram) else adapt(edited), exported)
    exported.save_pretrained(out)
    if folder is None or has_tokenizer(folder):
        AutoTokenizer.from_pretrained(source).save_pretrained(out)
    return out


def require_no_model(out: Path) -> None:
    """Raise where a folder holds a model already.

    Raises:
        ValueError: names the folder.
    """
    if (out / "config.json").exists():
        raise ValueError(f"{out} holds a model already: export into another folder")


def _load(source: str | os.PathLike[str]) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(source, dtype="auto")


def _require_unchanged(checkpoint: dict[str, nn.Parameter], exported: PreTrainedModel) -> None:
    """Raise where TransformerLens prepared a weight on its way into a bridge: its edit would not fit the checkpoint."""
    parameters = dict(exported.named_parameters(remove_duplicate=False))
    if changed := [name for name in checkpoint if not torch.equal(checkpoint[name], parameters[name])]:
        raise ValueError(
            f"TransformerLens changes {', '.join(changed[:3])} when it loads this model, so no edit fits it"
        )


def _edit(edited: nn.Module | Engram, adapter: Adapter, alpha: Alpha) -> AbstractContextManager[object]:
    """The source's bridge with the edit in it."""
    if isinstance(edited, Engram):
        edited.info.require(adapter.info, "the engram")
        return edited.ablated(adapter.model, alpha)
    adapt(edited).info.require(adapter.info, "the edited model")
    _copy(adapt(edited), adapter)
    return nullcontext()


def _require_raw(info: ModelInfo) -> None:
    if info.processing != "raw":
        raise ValueError(
            f"cannot export from {info.processing} weights of {info.name!r}: they are not the checkpoint's. Load the "
            "model without processing (load_model does) and extract the engram from it"
        )


def _copy(edited: Adapter, adapter: Adapter) -> None:
    """Write every matrix and bias of one model into another."""
    keys = [key for site in edited.all_sites() for key in (site.key, site.bias) if key is not None]
    places = {key for site in adapter.all_sites() for key in (site.key, site.bias)}
    for key in keys:
        tensor = edited.parameter(key)
        if key not in places:
            _require_zero(key, tensor)
            continue
        original = adapter.parameter(key)
        tensor = tensor.to(original.device)
        # In a coarser dtype than the checkpoint's, what equals the original's rounding was not edited.
        changed = original.to(tensor) != tensor
        if changed.any():
            adapter.untie([key])
            adapter.parameter(key).copy_(torch.where(changed, tensor.to(original), original))


def _require_zero(key: str, bias: Tensor) -> None:
    if bias.any():
        raise ValueError(f"the checkpoint has no place for {key}, which the edited model has")


def _require_same_logits(edited: Adapter, exported: PreTrainedModel) -> None:
    """Raise unless both say the same after 32 random tokens.

    Raises:
        ValueError: says by how much they differ.
    """
    encoder = edited.encoder
    shape = 2, min(16, encoder.n_ctx or 16)
    tokens = torch.randint(0, encoder.d_vocab, shape, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    batch = Batch(tokens, everywhere, everywhere, torch.zeros(2, dtype=torch.long), ("random",) * 2)
    expected = edited.unembed(edited.final(batch, everywhere)).float().cpu()
    found = exported(tokens.to(exported.device)).logits.flatten(0, 1).float().cpu()
    error = (found - expected).norm(dim=1) / (expected - expected.mean(1, keepdim=True)).norm(dim=1)
    exact = exported.dtype == edited.parameter("unembed.W_U").dtype == torch.float32
    if not error.median() <= (EXACT if exact else ROUNDED):
        raise ValueError(
            f"the checkpoint would not say what the edited model says (its logits differ by {error.median():.1%}): "
            "either more was edited than the matrices that an engram has, or TransformerLens's forward pass of "
            f"{type(exported).__name__} is not Hugging Face's"
        )


def _write(adapter: Adapter, checkpoint: dict[str, nn.Parameter], exported: PreTrainedModel) -> None:
    """Copy what differs from the checkpoint into the model that is saved."""
    head: Any = exported.get_output_embeddings()
    if head.bias is None:
        _require_zero("unembed.b_U", adapter.parameter("unembed.b_U"))
    W_U = adapter.parameter("unembed.W_U").T
    embedding: Any = exported.get_input_embeddings()
    if head.weight is embedding.weight and not torch.equal(W_U, head.weight):
        logger.warning(
            "the edit changes W_U, which is the embedding too in %r: the new checkpoint has an unembedding of its own",
            adapter.info.name,
        )
        exported.config.tie_word_embeddings = exported.config.get_text_config().tie_word_embeddings = False
        head.weight = nn.Parameter(W_U.clone())
    for name, parameter in exported.named_parameters():
        if parameter is not head.weight:
            parameter.copy_(checkpoint[name])
    head.weight.copy_(W_U)
