"""Which adapter does a model have? It is the one of the model's class, or of the nearest class that it derives from.

Any other module has the adapter for plain modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from torch import nn

from engram_interp.models.base import Adapter
from engram_interp.models.language import LanguageAdapter

_KNOWN: Mapping[str, str] = {
    "transformer_lens.HookedTransformer": "engram_interp.models.hooked.adapter.HookedTransformerAdapter",
    "transformer_lens.TransformerBridge": "engram_interp.models.bridge.adapter.TransformerBridgeAdapter",
}
"""Model classes by top package and name, and the paths of their adapters, which are imported when they are needed."""
_registered: dict[type[nn.Module], type[Adapter]] = {}


def register(model_class: type[nn.Module], adapter: type[Adapter]) -> None:
    """Make `adapt` use an adapter for a model class and the classes derived from it.

    A class registered again gets the new adapter. A registered adapter goes before one of this package for the same
    class.

    Args:
        model_class: the class of models.
        adapter: a class of adapters, called with a model.

    Raises:
        TypeError: if `model_class` is not a class of modules, or `adapter` is not a class of adapters.

    Example:
        >>> from engram_interp.models.base import Adapter
        >>> class MyModel(nn.Module): ...
        >>> class MyAdapter(Adapter): ...
        >>> register(MyModel, MyAdapter)
    """
    for given, name, base in ((model_class, "model_class", nn.Module), (adapter, "adapter", Adapter)):
        if not isinstance(given, type) or not issubclass(given, base):
            raise TypeError(f"{name} must be a class derived from {base.__name__}; got {given!r}")
    _registered[model_class] = adapter


def adapt(model: nn.Module) -> Adapter:
    """The adapter for a model.

    Raises:
        TypeError: if the model is no module.
        ValueError: if the model's settings keep its activations from being read exactly, or a plain module has no layer
            that an engram can be taken of.
        NotImplementedError: if a bridge is not built as a stack of blocks with an unembedding.
    """
    for one in type(model).__mro__:
        if found := _registered.get(one) or _built_in(one):
            return found(model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {model!r} ({type(model).__name__})")
    from engram_interp.models.torch_module.adapter import TorchModuleAdapter

    return TorchModuleAdapter(model)


def adapt_language(model: nn.Module) -> LanguageAdapter:
    """The adapter for a language model.

    Raises:
        TypeError: if the model is none of TransformerLens's; see also `adapt`.
    """
    if not isinstance(found := adapt(model), LanguageAdapter):
        raise TypeError(
            f"this takes a language model, a {' or a '.join(_KNOWN)}; got a {_name(type(model))}. load_model gives one"
        )
    return found


def _built_in(model_class: type) -> type[Adapter] | None:
    module, _, name = _KNOWN.get(_name(model_class), "").rpartition(".")
    return getattr(import_module(module), name) if module else None


def _name(model_class: type) -> str:
    return f"{model_class.__module__.partition('.')[0]}.{model_class.__name__}"
