"""How does an edit get into a Hugging Face checkpoint, and was anything edited that it has no place for?

The checkpoint is opened twice. One model stands behind a bridge, whose adapter knows which tensor is which matrix. The
other is saved as Hugging Face made it.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from engram_interp.models.bridge.adapter import TransformerBridgeAdapter
from engram_interp.models.bridge.fused import unsplit
from engram_interp.models.language import LanguageAdapter
from engram_interp.models.lens import TransformerBridge
from engram_interp.models.loading import bridge_of

logger = logging.getLogger("engram_interp")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose matrices can be edited.

    Attributes:
        adapter: the checkpoint's model, to be edited. An edit of it may be undone after `written`.
        parameters: its parameters under Hugging Face's names.
        exported: the model that is saved.
    """

    adapter: TransformerBridgeAdapter
    parameters: dict[str, nn.Parameter]
    exported: PreTrainedModel

    def other_edits(self, edited: LanguageAdapter) -> list[str] | None:
        """Parameters of an edited model that differ from the checkpoint's, and are no matrices or biases of sites.

        To be called with the edit in `adapter`, and before `written`.

        Returns:
            Hugging Face's names of them; None if the model is of a class whose parameters have other names.
        """
        if not isinstance(edited, TransformerBridgeAdapter):
            return None
        self._join()
        # A fused tensor is still the source's: what it was split into was edited in its place. The unembedding is a
        # site, also where the edit untied it from the embedding.
        return [
            name
            for name, parameter in hugging_face_parameters(edited.model).items()
            if name in self.parameters and name != self._head
            if not _same(parameter, self.parameters[name]) and not _same(parameter, self._original[name])
        ]

    @torch.no_grad()
    def written(self) -> PreTrainedModel:
        """The model that is saved, with the edit that is in `adapter` now.

        Raises:
            ValueError: if the unembedding has a bias now, and the checkpoint's has none.
        """
        self._join()
        head: Any = self.exported.get_output_embeddings()
        if head.bias is None:
            require_zero("unembed.b_U", self.adapter.parameter("unembed.b_U"))
        W_U = self.adapter.parameter("unembed.W_U").T
        embedding: Any = self.exported.get_input_embeddings()
        if head.weight is embedding.weight and not torch.equal(W_U, head.weight):
            self._untie(head, W_U)
        for name, parameter in self.exported.named_parameters():
            if parameter is not head.weight:
                parameter.copy_(self.parameters[name])
        head.weight.copy_(W_U)
        return self.exported

    def _join(self) -> None:
        """Fused tensors of the checkpoint get the edits of what the bridge has split them into."""
        unsplit(self.adapter.model, self.parameters.values())

    def _untie(self, head: Any, W_U: Tensor) -> None:
        logger.warning(
            "the edit changes W_U, which is also the embedding in %r: the new checkpoint has an unembedding of its own",
            self.adapter.info.name,
        )
        config: Any = self.exported.config
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
        head.weight = nn.Parameter(W_U.clone())

    @cached_property
    def _original(self) -> dict[str, nn.Parameter]:
        return dict(self.exported.named_parameters(remove_duplicate=False))

    @cached_property
    def _head(self) -> str:
        head = self.exported.get_output_embeddings()
        return next(f"{name}.weight" for name, module in self.exported.named_modules() if module is head)


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """A checkpoint, for an edit.

    Args:
        source: a folder, or a name on the hub.

    Raises:
        ValueError: if TransformerLens changes a weight on its way into a bridge, so that no edit would fit.
    """
    behind, exported = _load(source), _load(source)
    parameters = dict(behind.named_parameters(remove_duplicate=False))
    adapter = TransformerBridgeAdapter(bridge_of(str(source), behind))
    original = dict(exported.named_parameters(remove_duplicate=False))
    if changed := [name for name in parameters if not torch.equal(parameters[name], original[name])]:
        raise ValueError(
            f"TransformerLens changes {', '.join(changed[:3])} when it loads this model, so no edit fits it"
        )
    return Checkpoint(adapter, parameters, exported)


def _load(source: str | os.PathLike[str]) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(source, dtype="auto", attn_implementation="eager")


def hugging_face_parameters(model: TransformerBridge) -> dict[str, nn.Parameter]:
    """A bridge's parameters by the names that Hugging Face gives them, fused ones as they were before the split."""
    named = model.original_model.named_parameters(remove_duplicate=False)
    return {name.replace("._original_component", ""): parameter for name, parameter in named}


def require_zero(key: str, bias: Tensor) -> None:
    """Check that a bias without a place in the checkpoint is zero.

    Raises:
        ValueError: if it is not.
    """
    if bias.any():
        raise ValueError(f"the checkpoint has no place for {key}, which the edited model has")


def _same(given: Tensor, stored: Tensor) -> bool:
    """Whether two tensors are equal, in the dtype of one of them."""
    stored = stored.to(given.device)
    return torch.equal(given, stored.to(given.dtype)) or torch.equal(given.to(stored.dtype), stored)
