"""How is an edit of a model written back into the Hugging Face checkpoint that the model came from?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from engram_interp.common.writing import beside, replacing
from engram_interp.concepts.batches import Batch
from engram_interp.engrams.engram import Engram
from engram_interp.engrams.strengths import Alpha
from engram_interp.models import LanguageAdapter, ModelInfo, adapt_language
from engram_interp.models.checkpoint import Checkpoint, open_checkpoint, require_zero
from engram_interp.models.loading import checkpoint_folder, has_tokenizer

EXACT = 1e-3
"""Upper limit of the relative difference of logits, median over tokens, between float32 passes of the same weights."""


@torch.no_grad()
def export_hf(
    edited: nn.Module | Engram,
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    alpha: Alpha = 1.0,
) -> Path:
    """Write an edited copy of a Hugging Face checkpoint, which `AutoModelForCausalLM.from_pretrained` loads.

    What the edit does not touch stays as it was. Weights keep the checkpoint's dtype, and the edit is rounded to it
    once. If more than an engram's matrices was edited in the model, nothing is written. In a model whose unembedding is
    its embedding, an edit of `W_U` gives the checkpoint an unembedding of its own (`tie_word_embeddings` is false in
    the new configuration), and a warning is logged.

    Args:
        edited: an edited model, or an engram to subtract. Either comes from the source's weights, unprocessed.
        source: the checkpoint, a folder or a name on the hub.
        out_dir: the folder to write. It may exist, but must not hold a model.
        alpha: for an engram, how strongly to ablate it; see `Engram.ablate`. An edited model is written as it is.

    Returns:
        The folder.

    Raises:
        OSError: if the folder cannot be written. Then nothing of the export is left.
        ValueError: if the weights are processed or another model's, the checkpoint has no place for a bias, more was
            edited than the matrices that an engram has, the folder holds a model already, or `alpha` is given for a
            model.
    """
    out, folder = Path(out_dir).expanduser(), checkpoint_folder(source)
    require_no_model(out)
    _require_raw(edited.info if isinstance(edited, Engram) else adapt_language(edited).info)
    if isinstance(edited, Engram):
        edited.alphas(alpha)
    elif alpha != 1.0:
        raise ValueError(f"alpha must be 1 for a model, which is written as it is; got {alpha!r}")
    source = source if folder is None else folder
    checkpoint = open_checkpoint(source)
    _require_same_function(checkpoint)
    if isinstance(edited, Engram):
        exported = _with_engram(checkpoint, edited, alpha)
    else:
        exported = _with_model(checkpoint, adapt_language(edited))
    if broken := [name for name, tensor in exported.named_parameters() if not tensor.isfinite().all()]:
        raise ValueError(f"the edited checkpoint would not be finite in {', '.join(broken[:3])}: nothing is written")
    tokenizer = AutoTokenizer.from_pretrained(source) if folder is None or has_tokenizer(folder) else None
    write_checkpoint(exported, tokenizer, out)
    return out


def require_no_model(out: Path) -> None:
    """Check that a checkpoint can be written to a path.

    Raises:
        ValueError: if it is a folder that holds a model already.
        NotADirectoryError: if it is a file.
        FileNotFoundError: if the folder around it does not exist.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file: give a new folder, or one that holds no model")
    if (out / "config.json").exists():
        raise ValueError(f"{out} holds a model already: export into another folder")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {out.absolute().parent} to write {out.name} into")


def write_checkpoint(model: PreTrainedModel, tokenizer: Any, out: Path) -> None:
    """Write a model and its tokenizer into a folder, all or nothing.

    They are written aside and then moved, the configuration last: once it is there, the rest is.

    Raises:
        OSError: if it cannot be written, or the folder holds files of the same names. The folder is as it was before.
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


def _require_raw(info: ModelInfo) -> None:
    if info.processing != "raw":
        raise ValueError(
            f"cannot export from {info.processing} weights of {info.name!r}: they are not the checkpoint's. Load the "
            "model without processing (load_model does) and extract the engram from it"
        )


def _require_same_function(checkpoint: Checkpoint) -> None:
    """Check that TransformerLens's forward pass is Hugging Face's. Otherwise an engram was taken from another model.

    Raises:
        ValueError: if it is not; it says by how much the logits differ.
    """
    hf = checkpoint.exported
    if hf.dtype == torch.float32 and (error := _logits_error(checkpoint.adapter, hf)) > EXACT:
        raise ValueError(
            f"TransformerLens's {type(hf).__name__} does not compute what Hugging Face's does (logits differ by "
            f"{error:.1%}): an engram taken from it does not fit the checkpoint. Try another transformer-lens"
        )


def _with_engram(checkpoint: Checkpoint, engram: Engram, alpha: Alpha) -> PreTrainedModel:
    """The checkpoint's model without an engram."""
    engram.info.require(checkpoint.adapter.info, "the engram")
    with engram.ablated(checkpoint.adapter.model, alpha):
        return checkpoint.written()


def _with_model(checkpoint: Checkpoint, edited: LanguageAdapter) -> PreTrainedModel:
    """The checkpoint's model with the matrices of an edited one.

    Raises:
        ValueError: if the two differ in more than these matrices.
    """
    edited.info.require(checkpoint.adapter.info, "the edited model")
    _copy(edited, checkpoint.adapter)
    others = checkpoint.other_edits(edited)
    if others:
        raise ValueError(
            f"the edited model differs from its checkpoint in {', '.join(others[:3])} too: only edits of the matrices "
            "that an engram has can be exported"
        )
    exported = checkpoint.written()
    if others is None:
        _require_same_logits(edited, exported)
    return exported


def _copy(edited: LanguageAdapter, adapter: LanguageAdapter) -> None:
    """Write every matrix and bias of one model into another."""
    places = {key for site in adapter.all_sites() for key in (site.key, site.bias)}
    for key in [key for site in edited.all_sites() for key in (site.key, site.bias) if key is not None]:
        tensor = edited.parameter(key)
        if key not in places:
            require_zero(key, tensor)
            continue
        original = adapter.parameter(key)
        tensor = tensor.to(original.device)
        # In a coarser dtype than the checkpoint's, what equals the original's rounding was not edited.
        changed = original.to(tensor) != tensor
        if changed.any():
            adapter.untie([key])
            adapter.parameter(key).copy_(torch.where(changed, tensor.to(original), original))


def _require_same_logits(edited: LanguageAdapter, exported: PreTrainedModel) -> None:
    """Check that the checkpoint computes what the edited model does, as far as float32 can tell.

    This finds edits of other parameters in a model whose parameters have other names than the checkpoint's.

    Raises:
        ValueError: if it does not; it says by how much the logits differ.
    """
    if exported.dtype == edited.parameter("unembed.W_U").dtype == torch.float32:
        error = _logits_error(edited, exported)
        if error > EXACT:
            raise ValueError(
                f"the checkpoint would not compute what the edited model does (logits differ by {error:.1%}): more was "
                "edited than the matrices that an engram has"
            )


def _logits_error(model: LanguageAdapter, hf: PreTrainedModel) -> float:
    """The relative difference of logits, median over 32 random tokens; infinite if one is not finite."""
    shape = 2, min(16, model.encoder.n_ctx or 16)
    tokens = torch.randint(0, model.encoder.d_vocab, shape, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    batch = Batch(tokens, everywhere, everywhere, torch.zeros(2, dtype=torch.long), torch.arange(2), ("random",) * 2)
    expected = model.unembed(model.final(batch, everywhere)).float().cpu()
    found = hf(tokens.to(hf.device)).logits.flatten(0, 1).float().cpu()
    error = (found - expected).norm(dim=1) / (expected - expected.mean(1, keepdim=True)).norm(dim=1)
    return error.nan_to_num(float("inf")).median().item()
