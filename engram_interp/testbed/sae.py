"""`load_sae()`: a TopK sparse autoencoder of the testbed's `full` model, trained with sae-lens and shipped here.

It reads the residual stream after the first block, where the parts of a name have come together. Its weights are fp16
safetensors in sae-lens's own layout. `manifest.json` beside them holds their sha256 and how well they reconstruct.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from engram_interp.sae.loading import sae_lens
from engram_interp.testbed.model import DATA

FOLDER = DATA / "sae"
WEIGHTS = FOLDER / "sae_weights.safetensors"
MANIFEST = FOLDER / "manifest.json"


def load_sae() -> Any:
    """The testbed's SAE, a `sae_lens.SAE` on the CPU in float32: 3072 features at `blocks.0.hook_resid_post` of `full`.

    Raises:
        ImportError: if sae-lens is not installed.
        ValueError: if the weights file is not the one in the manifest.

    Example:
        >>> sae = load_sae()
        >>> sae.cfg.architecture(), sae.cfg.d_in
        ('topk', 256)
    """
    load = sae_lens().SAE.load_from_disk
    expected = json.loads(MANIFEST.read_text())["sha256"]
    if (found := hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()) != expected:
        raise ValueError(f"{WEIGHTS} was changed: its sha256 is {found}, the manifest has {expected}")
    return load(FOLDER, dtype="float32")
