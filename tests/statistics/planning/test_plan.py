"""What a plan foretells is what is then measured."""

import pandas as pd
import pytest
import torch
from transformers import GPT2Config, LlamaConfig, MixtralConfig

from engram_interp import collect, extract, plan
from engram_interp.models.components import COMPONENTS
from engram_interp.statistics.planning.plan import duration
from tests import huggingface
from tests.conftest import build, token_concept

SMALL = LlamaConfig(
    hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=100,
)  # fmt: skip


def test_bytes_of_sums_are_those_of_the_moments(llama):
    statistics = collect(llama, token_concept())
    found = plan(llama, statistics.counts)
    assert dict(zip(found.inputs["input"], found.inputs["sums"])) == {
        name: sum(moments[name].second.nbytes for moments in statistics.groups.values()) for name in statistics.inputs
    }
    sums = found.stages.set_index("stage").loc["sums"]
    assert sums["each"] == sums["all"] == found.inputs["sums"].sum()


def test_bytes_of_a_store_are_those_of_its_files_within_a_tenth(tmp_path):
    model = build("llama", d_mlp=200)
    statistics = collect(model, token_concept(n=200), store=tmp_path / "a", components="out")
    planned = plan(model, statistics.counts, components="out").stages.set_index("stage").loc["store", "all"]
    measured = sum(path.stat().st_size for path in (tmp_path / "a").glob("*.safetensors"))
    assert measured == pytest.approx(planned, rel=0.1)


def test_bytes_of_engrams_are_those_of_their_matrices(llama):
    engram = extract(llama, token_concept())
    planned = plan(llama, 100).stages.set_index("stage").loc["engrams", "all"]
    assert planned == sum(engram[key].nbytes for key in engram if key.rpartition(".")[2].startswith("W_"))


def test_a_configuration_is_planned_as_its_model_is():
    model = huggingface.make("Llama")
    from engram_interp.models.loading import bridge_of

    real, alone = plan(bridge_of("m", model), 500, budget="100KB"), plan(model.config, 500, budget="100KB")
    assert real.inputs.equals(alone.inputs)
    assert real.passes == alone.passes
    assert alone.seconds is None
    assert real.seconds is not None
    assert "flops" in alone.lead


def test_a_folder_and_a_file_are_configurations_too(tmp_path):
    SMALL.save_pretrained(tmp_path)
    expected = plan(SMALL, 500).inputs
    assert plan(tmp_path, 500).inputs.equals(expected)
    assert plan(tmp_path / "config.json", 500).inputs.equals(expected)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plan(tmp_path / "nowhere", 500)


@pytest.mark.parametrize(
    ("config", "n_inputs"),
    [
        # Four inputs a layer and the unembedding's; a fused QKV reads one input as Q, K and V do.
        (SMALL, 13),
        (GPT2Config(n_embd=32, n_layer=3, n_head=4, n_inner=48), 13),
        # Two inputs of attention a layer, and two of each expert.
        (
            MixtralConfig(
                hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, num_local_experts=3, vocab_size=60,
            ),
            2 * (2 + 2 * 3) + 1,
        ),
    ],
)  # fmt: skip
def test_families_have_the_inputs_that_they_have(config, n_inputs):
    assert len(plan(config, 1000).inputs) == n_inputs


def test_an_8b_model_by_hand():
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, dtype="bfloat16",
    )  # fmt: skip
    found = plan(config, 10**6)
    # Two groups of float32: 3 x 4096^2 and 14336^2 in each of 32 layers, and 4096^2 before the unembedding.
    by_hand = 2 * 4 * (32 * (3 * 4096**2 + 14336**2) + 4096**2)
    assert found.inputs["sums"].sum() == by_hand
    assert by_hand == pytest.approx(65e9, rel=0.02)  # what the field pays in memory
    down = found.components.set_index("component").loc["W_out", "moments"]
    assert 0.75 < down / by_hand < 0.85  # four fifths of it
    assert len(plan(config, {"target": 3000, "reference": 10**6}, budget="24GB").passes) == 2
    fewer = plan(config, 10**6, budget="24GB", ranks=4)
    assert len(fewer.passes) == 1
    assert fewer.stages.set_index("stage").loc["sums", "each"] < by_hand / 3.9


def test_processes_share_sums_and_devices_share_weights():
    one = plan(SMALL, 10**5).stages.set_index("stage")["each"]
    four = plan(SMALL, 10**5, ranks=4, devices=2).stages.set_index("stage")["each"]
    assert four["sums"] < 0.4 * one["sums"]
    assert four["weights"] == one["weights"] // 2


def test_leaving_out_what_reads_the_widest_input_saves_most():
    found = plan(SMALL, 10**5, budget="700KB").without.set_index("without")["moments"]
    assert found.idxmin() == "W_out"
    # Without Q and K alone nothing would be saved, since V reads the same input.
    assert "W_Q, W_K, W_V" in found.index


def test_it_shows_itself():
    found = plan(SMALL, 10**5, budget="700KB", flops=1e12)
    text = repr(found)
    assert "leave out" in text
    assert f"{len(found.passes)} passes" in text
    assert "budget='700KB'" in text
    assert "1e+12" in text
    assert "<table" in found._repr_html_()
    assert isinstance(found.to_frame(), pd.DataFrame)


def test_seconds_grow_with_tokens_and_with_the_rate():
    slow, fast = (sum(plan(SMALL, 10**5, flops=rate).seconds.values()) for rate in (1e9, 2e9))
    assert slow == pytest.approx(2 * fast)
    more = plan(SMALL, 2 * 10**5, flops=1e9).seconds
    assert more["forward"] == pytest.approx(2 * plan(SMALL, 10**5, flops=1e9).seconds["forward"])


def test_a_passes_that_ends_early_costs_less():
    whole, first = plan(SMALL, 10**5, flops=1e9).seconds, plan(SMALL, 10**5, flops=1e9, layers=0).seconds
    assert first["forward"] == pytest.approx(whole["forward"] / 3)


def test_components_are_chosen_as_elsewhere():
    assert plan(SMALL, 1000, components=["Q", "out"]).components["component"].tolist() == ["W_Q", "W_out"]
    with pytest.raises(ValueError, match="W_X"):
        plan(SMALL, 1000, components="W_X")
    assert set(plan(SMALL, 1000).components["component"]) <= set(COMPONENTS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_tokens": 0}, "n_tokens.*0"),
        ({"n_tokens": {}}, "n_tokens"),
        ({"n_tokens": {"target": -1}}, "target.*-1"),
        ({"groups": 0}, "groups.*0"),
        ({"ranks": 0}, "ranks.*0"),
        ({"flops": -1.0}, r"flops.*-1"),
        ({"budget": "much"}, "'much'"),
        ({"budget": "1KB"}, "budget must be"),
    ],
)
def test_a_number_out_of_range_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        plan(SMALL, **options)


def test_the_precision_of_a_configuration_may_be_another():
    whole, half = (plan(SMALL, 1000, dtype=one).stages.set_index("stage") for one in (torch.float32, torch.bfloat16))
    assert whole.loc["weights", "all"] == 2 * half.loc["weights", "all"]


def test_durations():
    assert [duration(one) for one in (3.0, 99.0, 600.0, 36000.0)] == ["3.0 s", "99 s", "10 min", "10.0 h"]
