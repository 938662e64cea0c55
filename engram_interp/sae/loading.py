"""Is this an SAE, and of which place in which model? The package sae-lens, and what an SAE says about itself."""

from __future__ import annotations

import importlib
import logging
from types import ModuleType
from typing import Any

from engram_interp.models import LanguageAdapter
from engram_interp.models.loading import same_model

UNFOLDED = ("expected_average_only_in", "covariance_whitening")
"""Normalisations that sae-lens applies outside of the SAE in training, and folds into the weights when it saves."""

logger = logging.getLogger("engram_interp")


def sae_lens() -> ModuleType:
    """Imports the package sae-lens, an optional dependency.

    Raises:
        ImportError: if it is not installed, or does not work with the installed TransformerLens.
    """
    try:
        return importlib.import_module("sae_lens")
    except ImportError as error:
        raise ImportError(
            "SAE features need sae-lens: pip install 'engram-interp[sae]'. It needs transformer-lens 3: there is no "
            f"sae-lens for version 4. The import failed with: {error}"
        ) from error


def for_inference(sae: Any) -> Any:
    """The SAE as it is used after training.

    An SAE that is still in training is replaced by the one that it would save, because the activations of some training
    SAEs depend on the rest of their batch.

    Raises:
        ImportError: if sae-lens is not installed.
        TypeError: if `sae` is not a `sae_lens.SAE`.
    """
    if not isinstance(sae, sae_lens().SAE):
        raise TypeError(f"sae must be a sae_lens.SAE, got {type(sae).__module__}.{type(sae).__name__}")
    if sae.cfg.normalize_activations in UNFOLDED:
        logger.warning(
            "the SAE expects activations scaled as in its training (%s), and that scale is not folded into its "
            "weights: its features may fire in the wrong places", sae.cfg.normalize_activations,
        )  # fmt: skip
    return _saved(sae) if isinstance(sae, sae_lens().TrainingSAE) else sae


def _saved(sae: Any) -> Any:
    """The SAE that a training SAE would save."""
    weights = {name: tensor.detach().clone() for name, tensor in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(weights)
    saved = sae_lens().SAE.from_dict(sae.cfg.get_inference_sae_cfg_dict())
    saved.process_state_dict_for_loading(weights)
    saved.load_state_dict(weights)
    return saved


def hook_of(sae: Any, adapter: LanguageAdapter) -> str:
    """The name of the hook point that an SAE reads, in TransformerLens's terms.

    Raises:
        ValueError: if the SAE does not say where it reads, or says that it belongs to another model.
    """
    metadata = sae.cfg.metadata  # a key that is absent reads as None
    if not metadata.hook_name:
        raise ValueError(
            "the SAE's cfg.metadata has no hook_name, so it does not say what it reads: set "
            "sae.cfg.metadata.hook_name, as 'blocks.5.hook_resid_post'"
        )
    if metadata.model_name and not same_model(str(metadata.model_name), adapter.info.name):
        raise ValueError(
            f"the SAE was trained on {metadata.model_name!r}, but the model is {adapter.info.name!r}; if that is a "
            f"copy of it under another name, set sae.cfg.metadata.model_name = {adapter.info.name!r}"
        )
    return str(metadata.hook_name)
