"""Figure 11: does ablating a class's engram from an MLP take that class, and no other?

`python -m analyses.paper.vision.mlp_classes`.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from analyses.paper.vision import data, forgetting
from analyses.paper.vision.models import mlp
from analyses.paper.vision.running import Setting, experiment, seeded
from analyses.paper.vision.training import fit
from analyses.results import Tables


def measure(setting: Setting) -> Tables:
    """The class-wise matrix of MLPs."""

    def train(pictures: data.Pictures, seed: int) -> nn.Module:
        model = seeded(seed, partial(mlp, *pictures.shape, len(pictures.classes), **setting.sized), setting.device)
        return fit(model, pictures.train, 15, 0.1, seed)

    return forgetting.classwise(setting, train, forgetting.one_by_one)


figures = partial(forgetting.figures, title="An MLP without each class's engram")
main = experiment(__file__, measure, forgetting.text, figures, n_train=10000, seeds=5)

if __name__ == "__main__":
    main()
