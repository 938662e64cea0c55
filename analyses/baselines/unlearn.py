"""How is a gradient method trained? On batches of forget questions, each beside as many random kept ones."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from analyses.baselines import losses
from analyses.baselines.losses import Models, Step
from analyses.setting import Setting
from analyses.training.fit import Schedule, fit, fit_answers
from engram_interp.concepts.batches import batches, encode_groups
from engram_interp.concepts.concept import TokenExample
from engram_interp.models import adapt_language
from engram_interp.testbed.model import trained_parameters
from engram_interp.unlearning.benchmarks import QA

RATES = (3e-5, 1e-4, 3e-4, 1e-3)


@dataclass(frozen=True)
class Method:
    """A gradient method, and the grid of its hyperparameters.

    Attributes:
        loss: the loss on the forget set, given the hyperparameters.
        grid: values of the hyperparameters by name, apart from the learning rates.
        forget_weight: the weight of that loss.
        retain_weight: the weight of the kept answers' loss.
        instead: which answers are trained in place of the forgotten ones.
    """

    loss: Callable[..., Tensor]
    grid: tuple[dict[str, Any], ...] = ({},)
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    instead: str = "refusals"


BETAS: tuple[dict[str, Any], ...] = ({"beta": 0.1}, {"beta": 0.5})
METHODS = {
    "GradDiff": Method(losses.graddiff),
    "IdkNLL": Method(losses.idk_nll),
    "UNDIAL": Method(losses.undial, ({"beta": 3.0}, {"beta": 10.0}), retain_weight=0.0),
    "RMU": Method(
        losses.rmu,
        ({"coefficient": 20.0, "depth": 0.25}, {"coefficient": 20.0, "depth": 0.5}),
        retain_weight=0.0,
    ),
    "AltPO": Method(losses.altpo, BETAS, instead="alternates"),
    "NPO": Method(losses.npo, BETAS),
    "SimNPO": Method(losses.simnpo, ({"beta": 2.5}, {"beta": 4.5}), forget_weight=0.125),
    "IdkDPO": Method(losses.idk_dpo, BETAS),
}


def unlearned(setting: Setting, method: Method, learning_rate: float, options: dict[str, Any]) -> nn.Module:
    """A copy of the model that is trained to forget the target."""
    models = Models(adapt_language(setting.model).copy(), setting.model)
    schedule = Schedule(setting.epochs, learning_rate, setting.batch_size, weight_decay=0.01, seed=setting.seed)
    loss = partial(method.loss, **options)

    def total(step: Step) -> Tensor:
        forgetting = method.forget_weight * loss(models, step)
        return forgetting + method.retain_weight * losses.kept(models, step) if method.retain_weight else forgetting

    n = len(setting.benchmark.target)
    fit(parameters_of(models.model), steps(setting, method, schedule), schedule.n_steps(n), total, schedule, "")
    return models.model


def parameters_of(model: nn.Module) -> list[Tensor]:
    """The parameters to train. For the testbed's models, without the biases that only TransformerLens adds."""
    if adapt_language(model).info.name.startswith("testbed"):
        return [parameter.requires_grad_(True) for parameter in trained_parameters(model).values()]
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def steps(setting: Setting, method: Method, schedule: Schedule) -> Iterator[Step]:
    """Forget batches in random order, each with the answers to give instead and random kept questions."""
    target, reference = setting.benchmark.target, setting.benchmark.reference
    rng = random.Random(schedule.seed)
    instead = alternates(setting) if method.instead == "alternates" else None
    encoder = adapt_language(setting.model).encoder
    groups = {"forget": [qa.example for qa in target], "retain": [qa.example for qa in reference]}
    encoded = setting.made("encoded", lambda: encode_groups(groups, encoder))
    for _ in range(schedule.epochs):
        order = rng.sample(range(len(target)), len(target))
        for start in range(0, len(order), schedule.batch_size):
            chosen = order[start : start + schedule.batch_size]
            answers = [(target[i].question, instead[i] if instead else rng.choice(setting.refusals)) for i in chosen]
            replaced = encode_groups({"instead": answers}, encoder)["instead"]
            beside = rng.sample(encoded["retain"], len(chosen))
            yield Step(*map(_batch, ([encoded["forget"][i] for i in chosen], replaced, beside)))


def alternates(setting: Setting) -> list[str]:
    """A plausible answer to each forget question: that of a kept question which shares the most words with it.

    AltPO asks an instruction-tuned model for these answers, which a small model cannot replace.
    """

    def make() -> list[str]:
        others = [(set(qa.question.split()), qa.answer) for qa in setting.benchmark.reference]
        rng = random.Random(setting.seed)
        return [rng.choice(_alike(qa, others)) for qa in setting.benchmark.target]

    return setting.made("alternates", make)


def _alike(asked: QA, others: list[tuple[set[str], str]]) -> list[str]:
    """The answers of the questions that share the most words with the one asked."""
    words = set(asked.question.split())
    shared = [len(words & theirs) for theirs, _ in others]
    most = max(shared)
    return [answer for (_, answer), n in zip(others, shared, strict=True) if n == most]


def _batch(examples: list[TokenExample]) -> Any:
    (batch,) = batches({"": examples}, len(examples), False, "")
    return batch


def finetuned(setting: Setting, base: nn.Module, learning_rate: float = 1e-3) -> nn.Module:
    """A copy of the base model that is fine-tuned on the target alone, for Task Arithmetic."""
    model = adapt_language(base).copy()
    schedule = Schedule(setting.epochs, learning_rate, setting.batch_size, weight_decay=0.01, seed=setting.seed)
    encoder = adapt_language(base).encoder
    target = encode_groups({"target": [qa.example for qa in setting.benchmark.target]}, encoder)["target"]
    fit_answers(parameters_of(model), model, target, schedule, "")
    return model
