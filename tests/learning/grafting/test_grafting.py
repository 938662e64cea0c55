import copy
import itertools

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import engram_interp as ei
from engram_interp.learning.grafting.grafting import WAYS
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.conftest import build, token_concept

SHARES = (0.0, 0.1, 1.0)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return all(torch.equal(p, q) for (_, p), (_, q) in pairs)


def trained(variant: str = "llama") -> tuple[nn.Module, nn.Module, ei.Concept]:
    """A base and a copy that has learned the answers of a concept in part."""
    base, concept = build(variant), token_concept(n=8)
    model = copy.deepcopy(base)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    rows = torch.stack([one.tokens for one in concept.target])
    for _ in range(60):
        optimizer.zero_grad()
        model(rows, return_type="loss").backward()
        optimizer.step()
    return model, base, concept


@pytest.fixture(scope="module")
def learned() -> tuple[nn.Module, nn.Module, ei.Concept]:
    return trained()


@pytest.mark.parametrize("by", WAYS)
def test_everything_is_the_trained_model_and_nothing_is_the_base(learned, by):
    model, base, concept = learned
    whole = ei.graft(model, base, concept, by=by, share=1.0, steps=2)
    assert same(whole.inject(base), model)
    assert same(whole.ablate(model), base)
    nothing = ei.graft(model, base, concept, by=by, share=0.0, steps=2)
    assert same(nothing.inject(base), base)
    assert nothing.n_entries == 0


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "Mixtral"])
def test_a_bridge_is_grafted_whole_too(family):
    hf = huggingface.make(family)
    moved = copy.deepcopy(hf)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model, base = bridge_of("tiny", moved), bridge_of("tiny", hf)
    whole = ei.graft(model, base, token_concept(), by="magnitude", share=1.0)
    grafted = whole.inject(base)
    rows = torch.arange(3, 12)[None]
    assert torch.equal(grafted(rows), model(rows))


def test_a_tied_unembedding_stays_the_embedding():
    hf = huggingface.make("GPT-2")
    assert hf.lm_head.weight is hf.transformer.wte.weight
    moved = copy.deepcopy(hf)
    with torch.no_grad():
        moved.lm_head.weight.mul_(1.5)
    model, base = bridge_of("tiny", moved), bridge_of("tiny", hf)
    grafted = ei.graft(model, base, token_concept(), by="magnitude", share=1.0).inject(base)
    assert torch.equal(grafted(torch.arange(3, 12)[None]), model(torch.arange(3, 12)[None]))


def test_a_curve_says_what_grafts_do_and_the_smallest_that_carries_is_taken(learned):
    model, base, concept = learned
    found = ei.graft(model, base, concept, by="learned", shares=SHARES, steps=30, carries=0.9)
    curve = found.curve
    assert curve["share"].tolist() == list(SHARES)
    ends = {"first": base, "last": model}
    scores = {name: ei.score(one, {"target": concept.target[1::2]})["target"].accuracy for name, one in ends.items()}
    assert curve["target_accuracy"].iloc[0] == pytest.approx(scores["first"])
    assert curve["target_accuracy"].iloc[-1] == pytest.approx(scores["last"])
    carried = curve.set_index("share")["choice_carried"]
    assert found.share == min(share for share in SHARES if carried[share] >= 0.9)
    grafted = found.inject(base)
    again = ei.score(grafted, {"target": concept.target[1::2]})["target"].accuracy
    assert again == pytest.approx(curve.set_index("share").at[found.share, "target_accuracy"])
    assert found.plot().layout.title.text


def test_grafts_of_one_way_hold_all_smaller_ones(learned):
    model, base, concept = learned
    for by in ("entries", "outputs", "heads", "matrices", "magnitude"):
        grafts = [ei.graft(model, base, concept, by=by, share=share) for share in (0.05, 0.2, 0.7)]
        for small, large in itertools.pairwise(grafts):
            assert small.n_entries < large.n_entries
            assert all(bool((large.masks[key] | ~mask).all()) for key, mask in small.masks.items())


def test_entries_are_those_of_the_engram_of_the_difference(learned):
    model, base, concept = learned
    engram = ei.extract(model, concept, delta_from=base)
    found = ei.graft(model, base, concept, by="entries", share=0.1)
    taken, left = [], []
    for key in engram:
        changed = (adapt(model).parameter(key) != adapt(base).parameter(key)) & (engram[key] != 0)
        taken.append(engram[key].abs()[found.masks[key] & changed])
        left.append(engram[key].abs()[~found.masks[key] & changed])
    assert torch.cat(taken).min() >= torch.cat(left).max() * (1 - 1e-5)


def test_a_plain_module_is_grafted():
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))
    x, y = torch.randn(60, 6), torch.randint(3, (60,))
    model = copy.deepcopy(base)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    concept = ei.Concept.from_dataset(TensorDataset(x, y), target=1)
    for by in WAYS:
        whole = ei.graft(model, base, concept, by=by, share=1.0, steps=2)
        assert same(whole.inject(base), model)
    found = ei.graft(model, base, concept, by="learned", steps=20, shares=SHARES)
    assert len(found.curve) == 3


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (dict(by="luck"), ValueError, "luck"),
        (dict(share=1.5), ValueError, "1.5"),
        (dict(shares=(0.1, -1)), ValueError, "-1"),
        (dict(carries=2), ValueError, "2"),
        (dict(steps=0), ValueError, "0"),
        (dict(share=True), TypeError, "True"),
    ],
)
def test_what_cannot_be_is_refused(learned, options, error, said):
    with pytest.raises(error, match=said):
        ei.graft(*learned, **options)


def test_a_base_of_other_shapes_or_another_delta_is_refused(learned):
    model, base, concept = learned
    with pytest.raises(ValueError, match="delta_from"):
        ei.graft(model, base, concept, delta_from=base)
    with pytest.raises(ValueError, match="W_gate"):
        ei.graft(model, build("llama", d_mlp=20), concept)
    with pytest.raises(TypeError, match="list|a.*b"):
        ei.graft(model, base, [("a", "b")])


def test_nothing_learned_is_nothing_to_graft(learned):
    model, _, concept = learned
    with pytest.raises(ValueError, match="no more of the target"):
        ei.graft(model, model, concept, by="magnitude")


@pytest.mark.slow
def test_on_the_testbed_more_carries_more_and_a_learned_mask_needs_least():
    full, base, corpus = ei.testbed.load("full"), ei.testbed.load("base"), ei.testbed.authors()
    author = corpus.forget10[1]
    others = [example for one in corpus.retain90[:20] for example in one.examples]
    concept = ei.Concept(author.examples, others, author.name)
    shares = (0.0, 0.03, 0.1, 0.3, 1.0)
    curves = {
        by: ei.graft(full, base, concept, by=by, shares=shares).curve for by in ("outputs", "low rank", "learned")
    }
    for by in ("outputs", "low rank"):
        accuracy = curves[by]["target_accuracy"].diff().dropna()
        assert (accuracy >= -0.05).all(), curves[by]
        assert curves[by]["target_loss"].is_monotonic_decreasing
    at = pd.DataFrame({by: curve.set_index("share")["target_carried"] for by, curve in curves.items()})
    assert at.at[0.03, "learned"] > 0.9 > at.at[0.03, "low rank"]
    assert at.at[0.3, "low rank"] > 0.8


def test_a_memory_that_no_share_carries_is_said(learned, caplog):
    with caplog.at_level("WARNING", "engram_interp"):
        found = ei.graft(*learned, by="matrices", shares=(0.0, 0.01), carries=0.9)
    assert found.share == 0.01
    assert "90 %" in caplog.text
