import contextlib
import copy
import logging

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import engram_interp as ei
from engram_interp import filters
from engram_interp.answers.loss import answer_loss
from engram_interp.concepts.batches import batches
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.conftest import build, token_concept, tokens

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
}


def few_against_many(n: int = 2, pos: int = 5) -> ei.Concept:
    """Eight to ten kept positions in sixteen dimensions, so that something is left to learn in."""
    return ei.Concept.from_tokens(tokens(n, pos, seed=3), tokens(80, 9, seed=4), name="few")


def kept_logits(model: nn.Module, concept: ei.Concept) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.stack([one.tokens for one in concept.target]))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 9) -> None:
    rows = tokens(8, 7, seed=seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(rows, return_type="loss").backward()
        optimizer.step()


def train_bridge(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """The same of a bridge, by the loss of Hugging Face's logits."""
    rows = tokens(8, 7)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(rows)[:, :-1].flatten(0, 1).float(), rows[:, 1:].flatten()).backward()
        optimizer.step()


def moved(model: nn.Module, concept: ei.Concept, before: torch.Tensor) -> float:
    return float((kept_logits(model, concept) - before).norm() / before.norm())


@pytest.mark.parametrize("variant", ["llama", "gpt2", "parallel"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_kept_does_not_move_whatever_the_optimizer_does(variant, optimizer):
    model, concept = build(variant, d_model=32), few_against_many()
    before, start = kept_logits(model, concept), copy.deepcopy(model)
    with ei.protect(model, concept) as kept:
        train(model, OPTIMIZERS[optimizer](model.parameters()), 20)
    assert moved(model, concept, before) < 2e-5
    assert kept.moved()["moved"].max() < 2e-5
    assert kept.moved()["changed"].max() > 1e-3
    # Without it, they move.
    train(start, OPTIMIZERS[optimizer](start.parameters()), 20)
    assert moved(start, concept, before) > 1e-2


@pytest.mark.slow
def test_a_thousand_steps_do_not_move_an_author_that_the_testbed_knows():
    model, corpus = ei.testbed.load("retain"), ei.testbed.authors()
    concept, adapter = corpus.concept(corpus.retain90[3].name), adapt(model)
    new = [example for one in corpus.forget10[:4] for example in one.examples]
    encoded = adapter.encode({"kept": concept.target, "new": new})

    def logits() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([model(one.tokens[None])[0] for one in encoded["kept"]])

    before, known = logits(), ei.score(model, {"kept": concept.target, "new": new})
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=0.1)
    learned = list(batches({"new": encoded["new"]}, 16, False, ""))
    with ei.protect(model, concept, progress=False):
        for step in range(1000):
            optimizer.zero_grad()
            answer_loss(adapter, learned[step % len(learned)], "mean").backward()
            optimizer.step()
    after = ei.score(model, {"kept": concept.target, "new": new})
    assert float((logits() - before).norm() / before.norm()) < 2e-5
    assert after["kept"].accuracy == known["kept"].accuracy
    assert after["kept"].loss == pytest.approx(known["kept"].loss, abs=1e-4)
    assert after["new"].accuracy > known["new"].accuracy + 0.2


def test_a_bridge_is_protected_too():
    model, concept = bridge_of("tiny", huggingface.make("Llama")), few_against_many()
    before = kept_logits(model, concept)
    with ei.protect(model, concept):
        train_bridge(model, OPTIMIZERS["adamw"](model.parameters()), 10)
    assert moved(model, concept, before) < 2e-5


def net_and_data() -> tuple[nn.Module, ei.Concept, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 3))
    x, y = torch.randn(90, 12), torch.arange(90) % 9 // 3
    labels = torch.where(torch.arange(90) < 6, 0, 1 + y % 2)
    return net, ei.Concept.from_dataset(TensorDataset(x, labels), target=0), x, labels


def test_a_plain_module_keeps_a_class():
    net, concept, x, labels = net_and_data()
    before = net(x[:6]).detach()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    with ei.protect(net, concept) as kept:
        for _ in range(200):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[6:]), labels[6:]).backward()
            optimizer.step()
    assert torch.allclose(net(x[:6]), before, atol=1e-4)
    assert len(kept.moved()) == 2
    assert (net(x[6:]).argmax(1) == labels[6:]).float().mean() > 0.6


def test_softer_filters_keep_less():
    shifts = []
    for filter in (filters.hard(1e-6), filters.clip(2), filters.soft, filters.power(4)):
        net, concept, x, labels = net_and_data()
        before = net(x[:6]).detach()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        with ei.protect(net, concept, filter=filter):
            for _ in range(50):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x), labels).backward()
                optimizer.step()
        shifts.append(float((net(x[:6]) - before).detach().norm()))
    assert shifts == sorted(shifts)
    assert shifts[0] < 1e-4 < shifts[1]


def test_one_step_is_the_projected_step():
    net, concept, x, labels = net_and_data()
    statistics = ei.collect(net, concept)
    free = copy.deepcopy(net)
    for one, guard in ((net, ei.protect(net, statistics, filter=filters.soft)), (free, contextlib.nullcontext())):
        with guard:
            optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
            nn.functional.cross_entropy(one(x), labels).backward()
            optimizer.step()
    torch.manual_seed(0)
    start = net_and_data()[0]
    ones = torch.cat([x, torch.ones(90, 1)], dim=1).double()
    P = ones[:6].T @ ones[:6] @ torch.linalg.inv(ones.T @ ones)

    def whole(one: nn.Module) -> torch.Tensor:
        return torch.cat([one[0].weight, one[0].bias[:, None]], dim=1).detach().double()

    step = whole(free) - whole(start)
    assert torch.allclose(whole(net) - whole(start), step - step @ P, atol=1e-6)


def test_a_graft_is_frozen_and_everything_else_is_free():
    model, base, concept = build("llama", seed=1), build("llama"), token_concept()
    graft = ei.graft(model, base, concept, by="magnitude", share=0.2)
    grafted = graft.inject(base)
    before = copy.deepcopy(grafted)
    with ei.protect(grafted, graft):
        train(grafted, OPTIMIZERS["adamw"](grafted.parameters()), 5)
    for key, mask in graft.masks.items():
        now, then = (adapt(one).parameter(key) for one in (grafted, before))
        assert torch.equal(now[mask], then[mask])
        if not key.rpartition(".")[2].startswith("b"):
            assert (now != then)[~mask].float().mean() > 0.5


def test_engrams_and_lists_of_concepts_are_kept_by_what_they_were_made_from():
    model, concept = build("llama", d_model=32), few_against_many()
    engram = ei.extract(model, concept)
    other = ei.Concept(few_against_many(1, 4).target, concept.reference, "other")
    before = [kept_logits(model, one) for one in (concept, other)]
    with ei.protect(model, [engram, other]):
        train(model, OPTIMIZERS["adamw"](model.parameters()), 10)
    assert all(moved(model, one, then) < 2e-5 for one, then in zip((concept, other), before, strict=True))


def test_removal_leaves_nothing(caplog):
    model, concept = build("llama"), few_against_many()
    pre, post = (dict(hooks) for hooks in _hooks())
    kept = ei.protect(model, concept)
    assert "on" in repr(kept)
    kept.remove()
    kept.remove()
    assert (pre, post) == tuple(dict(hooks) for hooks in _hooks())
    twin = copy.deepcopy(model)
    for one in (model, twin):
        torch.manual_seed(0)
        train(one, OPTIMIZERS["adamw"](one.parameters()), 3)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    assert not any(p._backward_hooks for p in model.parameters())


def _hooks():
    from torch.optim import optimizer

    return optimizer._global_optimizer_pre_hooks, optimizer._global_optimizer_post_hooks


def test_an_error_in_the_block_removes_it():
    before = tuple(dict(hooks) for hooks in _hooks())
    model = build("llama")
    with pytest.raises(RuntimeError, match="mine"), ei.protect(model, few_against_many()):
        raise RuntimeError("mine")
    assert before == tuple(dict(hooks) for hooks in _hooks())


def test_another_models_steps_are_not_touched():
    model, other = build("llama"), build("llama", seed=5)
    twin = copy.deepcopy(other)
    with ei.protect(model, few_against_many()) as kept:
        train(other, OPTIMIZERS["sgd"](other.parameters()), 2)
    train(twin, OPTIMIZERS["sgd"](twin.parameters()), 2)
    assert all(torch.equal(p, q) for p, q in zip(other.parameters(), twin.parameters(), strict=True))
    assert kept.n_steps == 0


def test_a_step_by_hand_is_noticed(caplog):
    model = build("llama")
    with caplog.at_level(logging.WARNING, "engram_interp"), ei.protect(model, few_against_many()), torch.no_grad():
        adapt(model).parameter("blocks.0.mlp.W_in").add_(1)
    assert "blocks.0.mlp.W_in" in caplog.text


def test_an_optimizer_of_some_parameters_moves_no_others():
    model, concept = build("gpt2", d_model=32), few_against_many()
    before, start = kept_logits(model, concept), copy.deepcopy(model)
    some = [adapt(model).parameter(f"blocks.{i}.mlp.W_in") for i in range(2)]
    with ei.protect(model, concept):
        train(model, torch.optim.Adam(some, lr=0.01), 5)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, start.get_parameter(name))}
    assert changed <= {f"blocks.{i}.mlp.{leaf}" for i in range(2) for leaf in ("W_in", "b_in")}
    assert moved(model, concept, before) < 2e-5


def test_components_that_are_not_asked_for_stay_as_they_are():
    model, concept = build("llama", d_model=32), few_against_many()
    start = copy.deepcopy(model)
    with ei.protect(model, concept, components="gate", layers=1):
        train(model, OPTIMIZERS["adamw"](model.parameters()), 3)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, start.get_parameter(name))}
    assert "blocks.1.mlp.W_gate" in changed
    assert not {name for name in changed if "W_" in name} - {"blocks.1.mlp.W_gate", "embed.W_E"}


@pytest.mark.parametrize(
    ("kept", "options", "error", "said"),
    [
        ([], {}, ValueError, "none"),
        ("an author", {}, TypeError, "str"),
        ([1], {}, TypeError, "int"),
        (few_against_many(), dict(positions="some"), ValueError, "some"),
        (few_against_many(), dict(filter="hard"), TypeError, "hard"),
        (few_against_many(), dict(components="router"), ValueError, "router"),
    ],
)
def test_what_cannot_be_kept_is_refused(kept, options, error, said):
    with pytest.raises(error, match=said):
        ei.protect(build("llama"), kept, **options)


def test_an_engram_that_does_not_know_its_inputs_is_refused(tmp_path):
    model, concept = build("llama"), few_against_many()
    engram = ei.extract(model, concept)
    engram.save(tmp_path / "engram")
    for one in (ei.Engram.load(tmp_path / "engram"), engram + engram):
        with pytest.raises(TypeError, match="few"):
            ei.protect(model, one)
    assert (2 * engram).select(components="Q").made_from is concept


def test_concepts_that_leave_no_reference_are_refused():
    model, one = build("llama"), few_against_many()
    other = ei.Concept(one.reference, one.target, "other")
    with pytest.raises(ValueError, match="reference"):
        ei.protect(model, [one, other])


def test_a_tied_embedding_with_a_bias_of_its_own_does_not_move():
    hf = huggingface.make("Phi", tie_word_embeddings=True)
    with torch.no_grad():
        hf.lm_head.bias.normal_()
    model, concept = bridge_of("tiny", hf), few_against_many()
    before = kept_logits(model, concept)
    with ei.protect(model, concept):
        train_bridge(model, OPTIMIZERS["adamw"](model.parameters()), 10)
    assert moved(model, concept, before) < 2e-5


def test_small_parts_of_kept_inputs_are_kept_beside_a_massive_activation():
    torch.manual_seed(0)
    net, x = nn.Linear(24, 3), torch.randn(90, 24) * torch.cat([torch.tensor([3000.0]), torch.full((23,), 0.3)])
    x[:, 0] = x[:, 0].abs()
    concept = ei.Concept.from_batches([x[:4]], [x[4:]])
    before = net(x[:4]).detach()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    with ei.protect(net, concept) as kept:
        for _ in range(100):
            optimizer.zero_grad()
            net(x[4:]).square().mean().backward()
            optimizer.step()
    assert ((net(x[:4]) - before).norm() / before.norm()).item() < 1e-5
    assert kept.moved()["worst"].max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_moves_by_its_rounding_only(dtype):
    model, concept = bridge_of("tiny", huggingface.make("Llama").to(dtype)), few_against_many(1, 5)
    twin = adapt(model).copy()
    before = kept_logits(model, concept).float()
    shifts = []
    for one, guard in ((model, ei.protect(model, concept)), (twin, contextlib.nullcontext())):
        with guard:
            train_bridge(one, torch.optim.SGD(one.parameters(), lr=0.1), 60)
        shifts.append(float((kept_logits(one, concept).float() - before).norm() / before.norm()))
    assert shifts[0] < 0.02 < 0.2 * shifts[1]


def test_two_protections_of_one_model_are_refused():
    model = build("llama")
    with ei.protect(model, few_against_many()):
        with pytest.raises(RuntimeError, match="already"):
            ei.protect(model, token_concept(2))
        ei.protect(build("llama", seed=2), few_against_many()).remove()
    ei.protect(model, token_concept(2)).remove()


def test_concepts_and_grafts_together_are_refused():
    model, base = build("llama", seed=1), build("llama")
    graft = ei.graft(model, base, token_concept(), by="magnitude", share=0.1)
    with pytest.raises(ValueError, match="grafts"):
        ei.protect(model, [few_against_many(), graft])


def test_weights_that_do_not_train_are_not_written():
    model, concept = build("gpt2", d_model=32), few_against_many()
    before = kept_logits(model, concept)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".b_" in name)
    start = copy.deepcopy(model)
    with ei.protect(model, concept):
        train(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1), 3)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, start.get_parameter(name))}
    assert not {name for name in changed if ".b_" not in name}
    assert moved(model, concept, before) < 2e-5


def test_biases_stay_where_they_are_no_part_of_their_weights():
    model, concept = build("gpt2", d_model=32), few_against_many()
    before, start = kept_logits(model, concept), copy.deepcopy(model)
    with ei.protect(model, concept, absorb_bias=False):
        train(model, OPTIMIZERS["sgd"](model.parameters()), 3)
    assert moved(model, concept, before) < 2e-5
    assert torch.equal(model.blocks[0].attn.b_Q, start.blocks[0].attn.b_Q)


class Tied(nn.Module):
    """A weight that multiplies outside of its layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.out = nn.Linear(16, 24), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.einsum("bh,hd->bd", self.w(x).relu(), self.w.weight))


def test_a_weight_that_is_not_covered_is_frozen():
    torch.manual_seed(0)
    net, x = Tied(), torch.randn(60, 16)
    concept = ei.Concept.from_batches([x[:3]], [x[3:]])
    before = net(x[:3]).detach()
    with ei.protect(net, concept):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        for _ in range(10):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    assert torch.allclose(net(x[:3]), before, atol=1e-5)


def test_a_removed_protection_is_not_entered_again():
    kept = ei.protect(build("llama"), few_against_many())
    with kept:
        pass
    with pytest.raises(RuntimeError, match="removed"), kept:
        pass


def test_moving_statistics_and_a_full_input_are_said(caplog):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)), torch.randn(60, 4)
    with caplog.at_level(logging.WARNING, "engram_interp"):
        ei.protect(net, ei.Concept.from_batches([x[:20]], [x[20:]])).remove()
    assert "running statistics of 1" in caplog.text
    assert "nothing can be learned" in caplog.text
