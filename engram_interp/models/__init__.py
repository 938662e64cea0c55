"""All that is known about model classes: `adapt(model)` is the only way the rest of the package meets a model."""

from torch import nn

from engram_interp.models.base import Adapter, ModelInfo, Record
from engram_interp.models.lens import TransformerBridge

__all__ = ["Adapter", "ModelInfo", "Record", "adapt"]


def adapt(model: nn.Module) -> Adapter:
    """The adapter for a model's class.

    Raises:
        TypeError: a class that no adapter knows.
        ValueError: settings of the model under which its activations cannot be read exactly.
        NotImplementedError: a model of another build than a stack of blocks with an unembedding.
    """
    if isinstance(model, TransformerBridge):
        from engram_interp.models.bridge.adapter import TransformerBridgeAdapter

        return TransformerBridgeAdapter(model)
    try:
        # TransformerLens 4 no longer has this class.
        from transformer_lens import HookedTransformer
    except ImportError:
        pass
    else:
        if isinstance(model, HookedTransformer):
            from engram_interp.models.hooked_transformer import HookedTransformerAdapter

            return HookedTransformerAdapter(model)
    raise TypeError(
        f"expected a transformer_lens HookedTransformer or TransformerBridge, "
        f"got {type(model).__module__}.{type(model).__name__}: load_model gives one"
    )
