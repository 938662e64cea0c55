"""What is known of model classes. The rest of the package meets a model only through `adapt(model)`."""

from engram_interp.models.base import Adapter
from engram_interp.models.hooks import Record
from engram_interp.models.identity import ModelInfo
from engram_interp.models.language import LanguageAdapter
from engram_interp.models.registry import adapt, adapt_language, register

__all__ = ["Adapter", "LanguageAdapter", "ModelInfo", "Record", "adapt", "adapt_language", "register"]
