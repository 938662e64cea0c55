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

from engram_interp.common.writing import beside, replacing
from engram_interp.concepts.concept import Batch
from engram_interp.engrams.engram import Alpha, Engram
from engram_interp.models import Adapter, ModelInfo, adapt
from engram_interp.models.bridge.adapter import TransformerBridgeAdapter
from engram_interp.models.lens import TransformerBridge
from engram_interp.models.loading import bridge_of, checkpoint_folder, has_tokenizer

logger = logging.getLogger("engram_interp")

EXACT = 1e-3
"""Relative difference of logits, median over tokens, that two float32 forward passes of the same weights stay below."""


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
    once. Nothing is written of a model in which more was edited. An edit of `W_U` in a model whose unembedding is its
    embedding gives it an unembedding of its own (`tie_word_embeddings` is false in the new configuration); a warning is
    logged.

    Args:
        edited: an edited model, or an engram to subtract. Either comes from the source's weights, unprocessed.
        source: the checkpoint, a folder or a name on the hub.
        out_dir: the folder to write; it may exist, but not hold a model.
        alpha: for an engram, how strongly to ablate it; see `Engram.ablate`. An edited model is written as it is.

    Returns:
        The folder.

    Raises:
        OSError: the folder cannot be written; nothing of the export is left then.
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
    _require_same_function(adapter, exported)
    with _edit(edited, adapter, alpha):
        adapter.unsplit(checkpoint.values())
        if isinstance(edited, TransformerBridge):
            _require_nothing_else(TransformerBridgeAdapter(edited), checkpoint, exported)
        _write(adapter, checkpoint, exported)
        if not isinstance(edited, (TransformerBridge, Engram)):
            _require_same_logits(adapt(edited), exported)
    if broken := [name for name, tensor in exported.named_parameters() if not tensor.isfinite().all()]:
        raise ValueError(f"the edited checkpoint would not be finite in {', '.join(broken[:3])}: nothing is written")
    tokenizer = AutoTokenizer.from_pretrained(source) if folder is None or has_tokenizer(folder) else None
    write_checkpoint(exported, tokenizer, out)
    return out


def require_no_model(out: Path) -> None:
    """Raise where no checkpoint can be written to.

    Raises:
        ValueError: a folder that holds a model already.
        NotADirectoryError: a file, which is no folder.
        FileNotFoundError: there is no folder around it.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file: a checkpoint is a folder, a new one or one without a model")
    if (out / "config.json").exists():
        raise ValueError(f"{out} holds a model already: export into another folder")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {out.absolute().parent} to write {out.name} into")


def write_checkpoint(model: PreTrainedModel, tokenizer: Any, out: Path) -> None:
    """Write a model and its tokenizer aside, then into a folder, its configuration last: with it, all is there.

    Raises:
        OSError: it cannot be written, or the folder holds files of the same names; the folder is as it was before.
    """
    if not out.is_dir() or not any(out.iterdir()):
        with replacing(out) as aside:
            _save(model, tokenizer, aside)
        return
    with beside(out / "checkpoint") as aside:
        _save(model, tokenizer, aside)
        names = sorted((found.name for found in aside.iterdir()), key="config.json".__eq__)
        if there := [name for name in names if (out / name).exists()]:
            raise FileExistsError(f"{out} holds {', '.join(there)} already: export into another folder")
        for name in names:
            os.replace(aside / name, out / name)


def _save(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _load(source: str | os.PathLike[str]) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(source, dtype="auto", attn_implementation="eager")


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


def _require_same_function(bridge: Adapter, hf: PreTrainedModel) -> None:
    """Raise where TransformerLens's forward pass is not Hugging Face's: what an engram was taken from is another model.

    Raises:
        ValueError: says by how much their logits differ.
    """
    if hf.dtype == torch.float32 and (error := _logits_error(bridge, hf)) > EXACT:
        raise ValueError(
            f"TransformerLens's {type(hf).__name__} does not compute what Hugging Face's does (logits differ by "
            f"{error:.1%}): an engram taken from it does not fit the checkpoint. Try another transformer-lens"
        )


def _require_nothing_else(
    edited: TransformerBridgeAdapter, checkpoint: dict[str, nn.Parameter], source: PreTrainedModel
) -> None:
    """Raise where more than the matrices and biases of sites was edited, which the new checkpoint would not have.

    Raises:
        ValueError: names what was.
    """
    original = dict(source.named_parameters(remove_duplicate=False))
    # The unembedding is a site, also where the edit untied it from the embedding.
    head = next(name for name, module in source.named_modules() if module is source.get_output_embeddings())
    # A fused tensor is still the source's: what it was split into was edited in its place.
    others = [
        name
        for name, parameter in edited.hugging_face_parameters().items()
        if name in checkpoint and name != f"{head}.weight"
        if not _same(parameter, checkpoint[name]) and not _same(parameter, original[name])
    ]
    if others:
        raise ValueError(
            f"the edited model differs from its checkpoint in {', '.join(others[:3])} too: only edits of the matrices "
            "that an engram has can be exported"
        )


def _require_same_logits(edited: Adapter, exported: PreTrainedModel) -> None:
    """The same of a class whose other parameters have no names in the checkpoint, as far as float32 can tell.

    Raises:
        ValueError: says by how much logits differ.
    """
    if exported.dtype == edited.parameter("unembed.W_U").dtype == torch.float32:
        error = _logits_error(edited, exported)
        if error > EXACT:
            raise ValueError(
                f"the checkpoint would not say what the edited model says (logits differ by {error:.1%}): more was "
                "edited than the matrices that an engram has"
            )


def _same(given: Tensor, stored: Tensor) -> bool:
    stored = stored.to(given.device)
    return torch.equal(given, stored.to(given.dtype)) or torch.equal(given.to(stored.dtype), stored)


def _logits_error(model: Adapter, hf: PreTrainedModel) -> float:
    """The relative difference of logits, median over 32 random tokens; infinite where one is not finite."""
    shape = 2, min(16, model.encoder.n_ctx or 16)
    tokens = torch.randint(0, model.encoder.d_vocab, shape, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    batch = Batch(tokens, everywhere, everywhere, torch.zeros(2, dtype=torch.long), torch.arange(2), ("random",) * 2)
    expected = model.unembed(model.final(batch, everywhere)).float().cpu()
    found = hf(tokens.to(hf.device)).logits.flatten(0, 1).float().cpu()
    error = (found - expected).norm(dim=1) / (expected - expected.mean(1, keepdim=True)).norm(dim=1)
    return error.nan_to_num(float("inf")).median().item()


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
