import pytest
import torch

from engram_interp import Concept, collect
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from engram_interp.options import Run
from engram_interp.statistics.rows import collect_rows
from tests import huggingface
from tests.conftest import build, token_concept, tokens


def rows_of(model, concept, batch_size=7):
    adapter = adapt(model)
    encoded = adapter.encode_concept(concept)
    return collect_rows(adapter, adapter.sites(), encoded, Run(batch_size=batch_size, progress=False))


def test_their_moments_are_those_that_collect_finds(any_model):
    concept = token_concept()
    statistics, rows = collect(any_model, concept), rows_of(any_model, concept)
    n, total = len(concept.target), len(concept.target) + len(concept.reference)
    for name, found in rows.items():
        for group, (start, stop) in {"target": (0, n), "reference": (n, total)}.items():
            expected, moment = statistics.groups[group][name], found.moment(start, stop)
            assert (moment.count, moment.offered) == (expected.count, expected.offered)
            torch.testing.assert_close(moment.second, expected.second, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(moment.first, expected.first, rtol=1e-4, atol=1e-4)


def test_every_row_stands_with_its_example(llama):
    rows, mask = tokens(5, 6), tokens(5, 6) % 2 > 0
    mask[2] = False
    found = rows_of(llama, Concept.from_tokens(rows, rows[:2], mask, None))["blocks.0.attn.in"]
    counts = [*mask.sum(1).tolist(), 6, 6]
    assert found.offered.tolist() == counts
    assert found.example.tolist() == [example for example, count in enumerate(counts) for _ in range(count)]
    alone = rows_of(llama, Concept.from_tokens(rows[3:4], rows[:1], mask[3:4], None))["blocks.0.attn.in"]
    torch.testing.assert_close(found.X[found.example == 3], alone.X[alone.example == 0], rtol=1e-4, atol=1e-5)


def test_of_an_expert_only_what_is_routed_to_it():
    model = bridge_of("tiny", huggingface.make("Mixtral"))
    concept = Concept.from_tokens(tokens(9, 8), tokens(12, 8, seed=2))
    statistics, rows = collect(model, concept), rows_of(model, concept)
    experts = [name for name in rows if ".experts." in name]
    assert experts
    for name in experts:
        moment = rows[name].moment(0, 9)
        expected = statistics.groups["target"][name]
        assert (moment.count, moment.offered) == (expected.count, expected.offered)
        torch.testing.assert_close(moment.second, expected.second, rtol=1e-4, atol=1e-4)


def test_an_activation_that_is_not_finite_is_named(llama):
    with torch.no_grad():
        llama.blocks[1].mlp.W_gate.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.W_out, batch 0"):
        rows_of(llama, token_concept())


def test_a_model_in_bf16_keeps_its_rows_in_bf16():
    rows = rows_of(build("llama", dtype=torch.bfloat16), token_concept())
    assert rows["blocks.0.attn.in"].X.dtype == torch.bfloat16
