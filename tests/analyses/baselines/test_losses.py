"""Gradient methods' losses, each against its formula written out example by example."""

import copy

import pytest
import torch

from analyses.baselines import losses
from analyses.baselines.losses import Models, Step
from engram_interp.concepts.batches import batches
from engram_interp.concepts.concept import TokenExample
from tests.conftest import build, tokens


def batch_of(rows, first):
    """Rows of unequal lengths whose tokens count from `first` on."""
    lengths = [len(rows[0]) - i for i in range(len(rows))]
    examples = [TokenExample(row[:n], torch.arange(n) >= first) for row, n in zip(rows, lengths)]
    (batch,) = batches({"": examples}, len(examples), False, "")
    return batch


@pytest.fixture(scope="module")
def models():
    model = build("llama").requires_grad_(False)
    before = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "W_" in name:
                parameter.mul_(1.3)
    return Models(model, before)


@pytest.fixture(scope="module")
def step():
    return Step(
        forget=batch_of(tokens(3, 7, seed=1), 3), instead=batch_of(tokens(3, 7, seed=2), 4),
        retain=batch_of(tokens(3, 7, seed=3), 2),
    )  # fmt: skip


def log_probs(model, batch):
    """Of every example, the log-probabilities of its counted tokens."""
    found = []
    for row, counts in zip(batch.tokens, batch.counts):
        whole = model(row[None])[0].log_softmax(-1)
        found.append(torch.stack([whole[pos - 1, row[pos]] for pos in range(1, len(row)) if counts[pos]]))
    return found


def test_likelihoods(models, step):
    forget, instead, retain = (
        -torch.cat(log_probs(models.model, batch)).mean() for batch in (step.forget, step.instead, step.retain)
    )
    torch.testing.assert_close(losses.graddiff(models, step), -forget)
    torch.testing.assert_close(losses.idk_nll(models, step), instead)
    torch.testing.assert_close(losses.kept(models, step), retain)


def ratios(models, batch):
    return torch.stack(
        [now.sum() - then.sum() for now, then in zip(log_probs(models.model, batch), log_probs(models.before, batch))]
    )


def test_preferences(models, step):
    beta = 0.5
    lose, win = ratios(models, step.forget), ratios(models, step.instead)
    npo = -2 / beta * torch.log(1 / (1 + torch.exp(beta * lose))).mean()
    torch.testing.assert_close(losses.npo(models, step, beta), npo)
    dpo = -2 / beta * torch.log(1 / (1 + torch.exp(-beta * (win - lose)))).mean()
    torch.testing.assert_close(losses.idk_dpo(models, step, beta), dpo)
    torch.testing.assert_close(losses.altpo(models, step, beta), dpo)


def test_simnpo_is_by_length(models, step):
    beta = 2.5
    mean = torch.stack([one.mean() for one in log_probs(models.model, step.forget)])
    expected = -2 / beta * torch.log(1 / (1 + torch.exp(beta * mean))).mean()
    torch.testing.assert_close(losses.simnpo(models, step, beta), expected)


def test_an_unmoved_model_has_no_preference(models, step):
    same = Models(models.before, models.before)
    # -2/beta log sigmoid(0) = 20 log 2
    torch.testing.assert_close(losses.npo(same, step, 0.1), 20 * torch.tensor(2.0).log())


def test_undial_takes_from_the_answers_logits(models, step):
    beta, expected = 3.0, []
    for row, counts in zip(step.forget.tokens, step.forget.counts):
        now, then = models.model(row[None])[0], models.before(row[None])[0].clone()
        for pos in range(1, len(row)):
            if counts[pos]:
                target = then[pos - 1].clone()
                target[row[pos]] -= beta
                expected.append(-(target.softmax(-1) * now[pos - 1].log_softmax(-1)).sum())
    torch.testing.assert_close(losses.undial(models, step, beta), torch.stack(expected).mean())


def test_rmu_steers_answers_and_holds_the_rest(models, step):
    found = losses.rmu(models, step, coefficient=5.0, depth=0.5)
    name = "blocks.1.hook_resid_post"

    def residual(model, batch):
        return model.run_with_cache(batch.tokens)[1][name][batch.counts]

    direction = torch.rand(16, generator=torch.Generator().manual_seed(0))
    steered = ((residual(models.model, step.forget) - 5 * direction / direction.norm()) ** 2).mean()
    held = ((residual(models.model, step.retain) - residual(models.before, step.retain)) ** 2).mean()
    torch.testing.assert_close(found, steered + held)
