"""What do the eight gradient methods minimize on the answers to forget?

Six of them add the loss of kept answers. UNDIAL does not, and RMU holds activations instead. Forms and constants are
OpenUnlearning's (`src/trainer`), with two differences. UNDIAL uses answer tokens only; there, also prompt and padding.
RMU takes the mean over all answer tokens; there, first over those of each answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid, mse_loss, one_hot, softmax

from analyses.training.fit import answer_logits, answer_loss
from engram_interp.concepts.batches import Batch

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """The data of one step.

    Attributes:
        forget: questions with the answers to forget.
        instead: the same questions with the answers to give instead, for methods that train these.
        retain: as many questions whose answers should stay the same.
    """

    forget: Batch
    instead: Batch
    retain: Batch


@dataclass(frozen=True)
class Models:
    """The model that is trained, and the model as it was before."""

    model: nn.Module
    before: nn.Module

    def logits(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).float()

    @torch.no_grad()
    def logits_before(self, tokens: Tensor) -> Tensor:
        return self.before(tokens).float()


def graddiff(models: Models, step: Step) -> Tensor:
    """`-NLL(forget)` (Liu et al. 2022)."""
    return -answer_loss(models.logits, step.forget)


def npo(models: Models, step: Step, beta: float) -> Tensor:
    """`-2/beta log sigmoid(-beta log(p / p_before))` (Zhang et al. 2024)."""
    return _preference(models, None, step.forget, beta)


def simnpo(models: Models, step: Step, beta: float) -> Tensor:
    """`-2/beta log sigmoid(-beta/|y| log p)`: NPO without the old model, normalized by length (Fan et al. 2025)."""
    log_probs = _log_probs(models.logits, step.forget)
    n = step.forget.scored[:, 1:].sum(1).to(log_probs)
    return -2 / beta * logsigmoid(-beta * log_probs / n).mean()


def idk_nll(models: Models, step: Step) -> Tensor:
    """`NLL` of refusals (Maini et al. 2024)."""
    return answer_loss(models.logits, step.instead)


def idk_dpo(models: Models, step: Step, beta: float) -> Tensor:
    """DPO that prefers refusals to the answers (Maini et al. 2024)."""
    return _preference(models, step.instead, step.forget, beta)


def altpo(models: Models, step: Step, beta: float) -> Tensor:
    """DPO that prefers other plausible answers to the answers (Mekala et al. 2025)."""
    return _preference(models, step.instead, step.forget, beta)


def undial(models: Models, step: Step, beta: float) -> Tensor:
    """Cross-entropy to the old model, with `beta` subtracted from the logits of the answers (Dong et al. 2025)."""
    logits, tokens = answer_logits(models.logits, step.forget)
    teacher, _ = answer_logits(models.logits_before, step.forget)
    return cross_entropy(logits, softmax(teacher - beta * one_hot(tokens, teacher.shape[-1]), dim=-1))


def rmu(models: Models, step: Step, coefficient: float, depth: float) -> Tensor:
    """Pulls the residual streams of answers towards a random direction, and holds those of kept ones (Li et al. 2024).

    It reads the residual stream behind the layer at `depth`, a share of all layers.
    """
    model: Any = models.model
    layer = int(depth * model.cfg.n_layers)
    activation = _activations(models.model, step.forget, layer)
    generator = torch.Generator().manual_seed(0)
    direction = torch.rand(activation.shape[-1], generator=generator).to(activation)
    held = _activations(models.model, step.retain, layer)
    with torch.no_grad():
        as_it_was = _activations(models.before, step.retain, layer)
    steered = coefficient * direction / direction.norm()
    return mse_loss(activation, steered.expand_as(activation)) + mse_loss(held, as_it_was)


def kept(models: Models, step: Step) -> Tensor:
    """`NLL(retain)`, which six of the methods add."""
    return answer_loss(models.logits, step.retain)


def _preference(models: Models, win: Batch | None, lose: Batch, beta: float) -> Tensor:
    """`-2/beta log sigmoid(beta (win - lose))` of log-ratios to the old model (Rafailov et al. 2023)."""
    margin = -_log_ratio(models, lose)
    if win is not None:
        margin = margin + _log_ratio(models, win)
    return -2 / beta * logsigmoid(beta * margin).mean()


def _log_ratio(models: Models, batch: Batch) -> Tensor:
    return _log_probs(models.logits, batch) - _log_probs(models.logits_before, batch)


def _log_probs(logits_of: Logits, batch: Batch) -> Tensor:
    """The log-probability of each example's answer."""
    log_probs = logits_of(batch.tokens)[:, :-1].log_softmax(-1)
    tokens, counts = batch.tokens[:, 1:, None].to(log_probs.device), batch.scored[:, 1:].to(log_probs.device)
    return (log_probs.gather(-1, tokens)[..., 0] * counts).sum(1)


def _activations(model: Any, batch: Batch, layer: int) -> Tensor:
    """The residual stream behind a layer, at the answers' tokens."""
    seen: list[Tensor] = []
    hook = (f"blocks.{layer}.hook_resid_post", lambda activation, hook: seen.append(activation))
    with model.hooks(fwd_hooks=[hook]):
        model(batch.tokens)
    return seen[0][batch.scored.to(seen[0].device)]
