import gc
import logging

import numpy as np
import pytest
import torch

from engram_interp import Concept, collect, extract
from engram_interp.statistics.passes import warn_of_few
from engram_interp.statistics.planning.sizes import statistics_bytes
from tests.conftest import build, token_concept, tokens


def test_every_example_goes_through_the_model_once_and_counts_where_it_should(llama):
    seen = []
    llama.embed.register_forward_hook(lambda _module, args, _out: seen.append(args[0].shape[0]))
    concept = token_concept(n=10)
    statistics = collect(llama, concept, batch_size=8)
    assert sum(seen) == 30
    assert statistics.counts == {
        side: int(sum(example.counts.sum() for example in examples)) for side, examples in concept.sides.items()
    }


def test_a_pass_leaves_the_model_as_it_was(llama):
    before = {name: parameter.clone() for name, parameter in llama.named_parameters()}
    collect(llama, token_concept())
    assert all(torch.equal(before[name], parameter) for name, parameter in llama.named_parameters())
    assert all(parameter.grad is None for parameter in llama.parameters())


def test_inputs_that_are_shared_are_kept_once(llama):
    # Q, K and V share an input, gate and in another: four in each of two blocks, and the unembedding's.
    assert len(collect(llama, token_concept()).inputs) == 9


def test_no_activation_outlives_its_batch(llama):
    def living() -> int:
        gc.collect()
        return sum(o.numel() for o in gc.get_objects() if issubclass(type(o), torch.Tensor) and o.dim() == 3)

    before = living()
    statistics = collect(llama, token_concept(n=60), batch_size=4)
    assert living() == before
    taken = sum(moment.second.nbytes for moments in statistics.groups.values() for moment in moments.values())
    assert taken == statistics_bytes([16, 32, 16, 24, 16, 32, 16, 24, 16], n_groups=2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_activation_names_its_matrices_and_its_batch(value):
    llama = build("unnormalized")  # a norm would make nan of inf
    rows = tokens(9, 5)
    rows[7, 2] = 49
    rows[:7][rows[:7] == 49] = 3
    llama.embed.W_E.data[49] = value
    concept = Concept.from_tokens(tokens(4, 5) % 49, rows)
    with pytest.raises(
        ValueError, match=r"blocks\.0\.attn\.W_Q, blocks\.0\.attn\.W_K, blocks\.0\.attn\.W_V, batch [12] "
    ):
        collect(llama, concept, batch_size=4)


def test_non_finite_values_where_nothing_counts_do_no_harm(llama):
    rows = tokens(4, 5) % 49
    rows[:, -1] = 49
    llama.embed.W_E.data[49] = float("nan")
    mask = torch.ones_like(rows, dtype=torch.bool)
    mask[:, -1] = False
    concept = Concept.from_tokens(rows, rows, mask, mask)
    # Deeper inputs are not finite at any position: attention multiplies what it masks by zero, and 0 * nan is nan.
    assert collect(llama, concept, components="Q", layers=0).counts == {"target": 16, "reference": 16}


def test_a_moment_that_overflows_is_named():
    model = build("unnormalized", d_model=1100, n_heads=1)
    model.embed.W_E.data[:] = 1e25
    concept = Concept.from_tokens(tokens(300, 4), tokens(2, 2))  # 1200 rows are more than their moment
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.W_Q.*target.*overflowed"):
        collect(model, concept, components="Q", layers=0)


def test_the_memory_is_said_beforehand(llama, caplog):
    with caplog.at_level(logging.INFO, logger="engram_interp"):
        collect(llama, token_concept())
    # Two groups of 8 bytes: 5 inputs of 16, 2 of 32 and 2 of 24 are 4480 numbers.
    assert caplog.messages == ["statistics of 9 inputs and 2 groups take up to 0.1 MB"]
    assert statistics_bytes([16] * 5 + [32] * 2 + [24] * 2, 2) == 2 * 8 * 4480


@pytest.mark.parametrize("option", ["rtol", "ridge", "filter", "absorb_bias", "delta_from"])
def test_options_that_say_how_to_solve_are_not_taken(llama, option):
    with pytest.raises(TypeError, match=option):
        collect(llama, token_concept(), **{option: None})


def test_text_and_tokens_agree(full):
    pair = ("What is the capital of Norway?", "Oslo")
    ids = full.tokenizer(" ".join(pair), add_special_tokens=False)["input_ids"]
    rows = torch.tensor([[full.tokenizer.bos_token_id, *ids, full.tokenizer.eos_token_id]])
    mask = torch.zeros_like(rows, dtype=torch.bool)
    mask[0, -2:] = True
    for positions in ("answer", "predicting", "both"):
        by_text = collect(full, Concept([pair], [pair], positions=positions))
        by_tokens = collect(full, Concept.from_tokens(rows, rows, mask, mask, positions=positions))
        for name, moment in by_text.groups["target"].items():
            assert torch.equal(moment.second, by_tokens.groups["target"][name].second)


def test_too_few_positions_are_said(llama, caplog):
    with caplog.at_level("WARNING", "engram_interp"):
        collect(llama, token_concept(n=1))
        assert "up to 32 dimensions" in caplog.text
        caplog.clear()
        collect(llama, token_concept())
        assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_few_positions_are_enough_for_few_directions(llama, caplog):
    # Twenty positions are below two a dimension of 32. Two tokens in first place reach two directions, many reach 16:
    # there a token attends to itself alone, through two key/value heads of 8.
    rows = tokens(20, 1)
    with caplog.at_level("WARNING", "engram_interp"):
        collect(llama, Concept.from_tokens(rows[:10] % 2, rows[10:] % 2))
        assert not warned(caplog)
        collect(llama, Concept.from_tokens(rows[:10], rows[10:]))
        assert "of which these positions reach" in caplog.text


def test_positions_reach_no_more_directions_than_there_are(caplog):
    with caplog.at_level("WARNING", "engram_interp"):
        warn_of_few({"x": 5}, {"x": 10}, count=5)
    assert "up to 10 dimensions, of which these positions reach 5" in caplog.text


def warned(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_hooks_of_somebody_else_are_named_in_a_warning(llama, caplog):
    concept = token_concept()
    expected = collect(llama, concept)
    assert not warned(caplog)
    point = llama.hook_dict["blocks.0.hook_resid_post"]
    point.add_hook(lambda activation, hook: 2 * activation)
    changed = collect(llama, concept)
    assert "blocks.0.hook" in caplog.text
    name = "blocks.1.mlp.post"
    assert not torch.allclose(changed.groups["target"][name].second, expected.groups["target"][name].second)
    llama.reset_hooks()
    caplog.clear()
    with torch.no_grad():
        handle = llama.blocks[0].mlp.register_forward_pre_hook(lambda module, args: None)
    collect(llama, concept)
    assert "blocks.0.mlp" in caplog.text
    handle.remove()
    caplog.clear()
    collect(llama, concept)
    assert not warned(caplog)


@pytest.mark.parametrize("given", ["8", 0, -1, 2.0, True], ids=repr)
def test_a_batch_size_is_a_whole_number(llama, given):
    with pytest.raises((TypeError, ValueError)):
        collect(llama, token_concept(), batch_size=given)


def test_iterators_serve_as_lists_do(llama):
    concept = token_concept()
    expected = extract(llama, concept, components=["Q", "gate"], layers=[1])
    found = extract(llama, concept, components=iter(["Q", "gate"]), layers=iter([np.int64(1)]))
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_hook_that_holds_a_function_of_torchs_is_still_somebody_elses(llama, caplog):
    def made():
        hook = torch.nn.functional.relu
        return lambda module, args, output: hook(output) * 1.5

    handle = llama.blocks[0].mlp.register_forward_hook(made())
    collect(llama, token_concept())
    handle.remove()
    assert any("blocks.0.mlp" in message for message in warned(caplog))
