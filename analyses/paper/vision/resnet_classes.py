"""Figures 4 and 13: does ablating a class's engram from a ResNet-18 take that class, and no other?

`python -m analyses.paper.vision.resnet_classes`.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from analyses.paper.vision import data, forgetting
from analyses.paper.vision.models import ResNet18
from analyses.paper.vision.running import Setting, experiment, seeded
from analyses.paper.vision.training import fit
from analyses.results import Tables


def measure(setting: Setting) -> Tables:
    """The class-wise matrix of ResNets."""

    def train(pictures: data.Pictures, seed: int) -> nn.Module:
        make = partial(ResNet18, pictures.shape[0], len(pictures.classes), **setting.sized)
        return fit(seeded(seed, make, setting.device), pictures.train, 12, 0.1, seed)

    return forgetting.classwise(setting, train, forgetting.one_by_one)


figures = partial(forgetting.figures, title="A ResNet-18 without each class's engram")
main = experiment(__file__, measure, forgetting.text, figures, n_train=4000, seeds=3)

if __name__ == "__main__":
    main()
