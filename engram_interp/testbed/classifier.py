"""`load_classifier()`: a small convolutional network that tells the testbed's pictures apart, shipped with the package.

It has a plain convolution, a grouped one, one with a stride, and two linear layers. The checkpoint is float32
safetensors, and `manifest.json` holds its sha256.
"""

from __future__ import annotations

import hashlib
import json

from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from engram_interp.common.randomness import unchanged_randomness
from engram_interp.testbed.model import DATA, MANIFEST
from engram_interp.testbed.pictures import KINDS

NAME = "classifier"
CHECKPOINT = DATA / f"{NAME}.safetensors"


class Classifier(nn.Module):
    """From pictures `[batch 1 24 24]` to scores `[batch 20]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1, groups=2)
        self.conv3 = nn.Conv2d(24, 32, 3, stride=2)
        self.fc1 = nn.Linear(32 * 2 * 2, 64)
        self.fc2 = nn.Linear(64, len(KINDS))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.pool(self.conv1(x).relu())
        x = self.pool(self.conv2(x).relu())
        x = self.conv3(x).relu().flatten(1)
        return self.fc2(self.fc1(x).relu())


def load_classifier() -> nn.Module:
    """The testbed's image classifier, trained, on the CPU, in evaluation mode.

    Raises:
        ValueError: if the weights file is not the one in the manifest.

    Example:
        >>> from engram_interp.testbed import pictures
        >>> x, label = pictures("test")[0]
        >>> int(load_classifier()(x[None]).argmax()) == int(label)
        True
    """
    weights = CHECKPOINT.read_bytes()
    expected = json.loads(MANIFEST.read_text())[NAME]["sha256"]
    if (found := hashlib.sha256(weights).hexdigest()) != expected:
        raise ValueError(f"{CHECKPOINT} was changed: its sha256 is {found}, the manifest has {expected}")
    with unchanged_randomness():
        model = Classifier()
    model.load_state_dict(load_safetensors(weights))
    return model.eval()
