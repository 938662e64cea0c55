"""Which model is this, and what was done to its weights when they were loaded?

The model is known by the signs in its embedding, and processing by what it leaves in the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass

import torch
from accelerate.utils import align_module_device
from jaxtyping import Float
from torch import Tensor, nn

from engram_interp.common.storage import Content, fingerprint
from engram_interp.models.once import once
from engram_interp.models.sites import Site

PLAIN = "plain"
"""What stands in the place of weight processing for a plain module."""


@dataclass(frozen=True)
class ModelInfo:
    """Which model something was computed from.

    Attributes:
        name: the model's own name, for people.
        fingerprint: a hash of the signs in the embedding, which no engram edits. An edited copy has the fingerprint of
            its model, and so has the same checkpoint in another dtype or in another of TransformerLens's classes. A
            fine-tune that left the embedding as it was cannot be told from its model.
        processing: `raw`, or what was done to the weights when they were loaded; `plain` for a module that is no
            language model of TransformerLens's. The fingerprint of such a one is of the names and shapes of all its
            parameters, and of the signs in those that no engram edits (norms, embeddings).
    """

    name: str
    fingerprint: str
    processing: str

    @property
    def is_plain(self) -> bool:
        """Whether it is a plain module, and no language model in TransformerLens's terms."""
        return self.processing == PLAIN

    def require(self, other: ModelInfo, what: str) -> None:
        """Check that `what`, made from this model, may be used with the model `other`.

        Raises:
            ValueError: if the weights are another model's or were processed differently; it says which.
        """
        if other.processing != self.processing:
            raise ValueError(
                f"cannot use {what}, made from {self.processing} weights of {self.name!r}, with a model that has "
                f"{other.processing} weights: load it with the same weight processing"
            )
        if other.fingerprint != self.fingerprint:
            raise ValueError(
                f"cannot use {what}, made from another model: {self.name!r} (fingerprint {self.fingerprint[:12]}), "
                f"not {other.name!r} (fingerprint {other.fingerprint[:12]})"
            )

    @classmethod
    def read(cls, content: Content) -> ModelInfo:
        """The model that a file names in its field `model`.

        Raises:
            ValueError: if the field does not say which model this is.
        """
        return cls(**content.strings_by_name("model", ("name", "fingerprint", "processing")))

    def to_dict(self) -> dict[str, str]:
        """The fields by name, as files have them."""
        return asdict(self)


@once
def identity(W_E: Float[Tensor, "d_vocab d_model"]) -> str:
    """The fingerprint of a model: the signs in its embedding, which neither a dtype nor a scale changes."""
    return fingerprint([torch.signbit(W_E)])


CENTRED = 0.01
"""How small row sums must be, relative to those of random rows, to count as centred. Centring in bf16 leaves 0.002."""


@once
def is_centred(rows: Float[Tensor, "n d"]) -> bool:
    """Whether every row has mean zero, up to rounding: `|rows @ 1|` against `sqrt(d)` times the root mean square.

    Example:
        >>> W_E = torch.randn(9, 64)
        >>> is_centred(W_E), is_centred(W_E - W_E.mean(1, keepdim=True))
        (False, True)
    """
    d = rows.shape[1]
    sums = rows.detach().sum(1, dtype=torch.float32)
    wide = torch.promote_types(rows.dtype, torch.float32)
    size = torch.linalg.vector_norm(rows.detach(), dtype=wide) / rows.numel() ** 0.5
    return bool(size > 0) and bool(sums.square().mean().sqrt() < CENTRED * d**0.5 * size)


def values_folded(sites: Iterable[Site], parameter: Callable[[str], Tensor]) -> bool:
    """Whether value biases went into `b_O`: they are zero, and those of queries or keys are not.

    Args:
        sites: the model's matrices.
        parameter: the tensor that lives at a key.
    """
    biases: dict[str, list[Tensor]] = {}
    for site in sites:
        if site.bias is not None:
            biases.setdefault(site.component, []).append(parameter(site.bias))
    nonzero = {component for component, found in biases.items() if any(bool(bias.any()) for bias in found)}
    return "W_V" in biases and "W_V" not in nonzero and bool(nonzero & {"W_Q", "W_K"})


def processing_of(
    folded: Collection[bool],
    values_folded: bool,
    W_E: Float[Tensor, "d_vocab d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
) -> str:
    """What was done to a model's weights, as far as they show it: `raw`, or a list.

    Args:
        folded: for every norm in front of matrices, whether its gain is folded into them.
        values_folded: whether value biases are folded into `b_O`. This is reported of models with unfolded norms only.
            If both were done, an edit that gives W_V a bias again would make another model of it.
        W_E: the embedding, which is centred together with everything else that writes to the residual stream.
        W_U: the unembedding, which is centred by itself.
    """
    done = {
        "folded": bool(folded) and all(folded),
        "partly folded": any(folded) and not all(folded),
        "value-folded": values_folded and not any(folded),
        "centred": is_centred(W_E),
        "unembedding-centred": is_centred(W_U),
    }
    return ", ".join(word for word, seen in done.items() if seen) or "raw"


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of the bits of all parameters and of the buffers that a checkpoint has, on whatever device they lie.

    What accelerate has offloaded is read for it.
    """
    found = hashlib.sha256()
    kept = [name for name, _ in model.named_buffers() if _is_persistent(model, name)]
    for name in (*(name for name, _ in model.named_parameters()), *kept):
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        with align_module_device(module):
            found.update(f"{name} {fingerprint([getattr(module, leaf)])}".encode())
    return found.hexdigest()


def _is_persistent(model: nn.Module, name: str) -> bool:
    """Whether a buffer is part of a checkpoint."""
    path, _, leaf = name.rpartition(".")
    return leaf not in model.get_submodule(path)._non_persistent_buffers_set
