import math

import pytest
import torch

from engram_interp import LocalizationMap, collect, extract, localize
from engram_interp.models import adapt
from tests.conftest import build, token_concept


@pytest.fixture
def by_hand() -> LocalizationMap:
    # Two heads of (3, 4) and (0, 0) out of (5, 0) and (0, 12): |W+| = 5, |W| = 13, heads 5/5 and 0/12.
    return LocalizationMap(
        engram_norms={"blocks.1.attn.W_Q": torch.tensor([5.0, 0.0]), "unembed.W_U": torch.tensor([1.0])},
        weight_norms={"blocks.1.attn.W_Q": torch.tensor([5.0, 12.0]), "unembed.W_U": torch.tensor([4.0])},
        n_layers=2,
        name="hand",
        model="none",
    )


def test_values_by_hand(by_hand):
    assert by_hand["blocks.1.attn.W_Q"] == pytest.approx(5 / 13)
    assert by_hand.components == ("W_Q", "W_U")
    assert by_hand.wnorm[1].tolist() == pytest.approx([5 / 13, 0.25])
    assert by_hand.wnorm[0].isnan().all()
    assert by_hand.heads("Q")[1].tolist() == [1.0, 0.0]
    assert by_hand.heads("Q")[0].isnan().all()
    assert by_hand.top(1)["key"].tolist() == ["blocks.1.attn.W_Q"]


def test_experts_share_a_cell_and_have_a_grid_of_their_own():
    # |W+| of 3 and 4 out of 5 and 12: the layer's cell is 5 / 13.
    keys = [f"blocks.1.mlp.experts.{expert}.W_in" for expert in (0, 1)]
    wmap = LocalizationMap(
        engram_norms=dict(zip(keys, torch.tensor([[3.0], [4.0]]))),
        weight_norms=dict(zip(keys, torch.tensor([[5.0], [12.0]]))),
        n_layers=2,
    )
    assert wmap.wnorm[1].tolist() == pytest.approx([5 / 13])
    assert wmap.experts("in")[1].tolist() == pytest.approx([3 / 5, 4 / 12])
    assert wmap.experts("in")[0].isnan().all()
    assert wmap.to_frame()["expert"].tolist() == [0, 1]
    (panel,) = wmap.plot_experts().data
    assert list(panel.z[1]) == pytest.approx([3 / 5, 4 / 12])
    with pytest.raises(ValueError, match="the map has no experts of W_gate; it has those of W_in"):
        wmap.experts("gate")


def test_a_map_without_experts_has_none_to_plot(by_hand):
    with pytest.raises(ValueError, match="the map has no experts of W_in; it has those of no component"):
        by_hand.experts("in")
    with pytest.raises(ValueError, match="no mixture of experts"):
        by_hand.plot_experts()


def test_the_map_is_the_engrams_wnorm(any_model):
    concept = token_concept()
    wmap, engram = localize(any_model, concept), extract(any_model, concept)
    assert dict(zip(wmap.to_frame()["key"], wmap.to_frame()["wnorm"], strict=True)) == pytest.approx(engram.wnorm())


def test_heads_are_the_norms_of_their_slices(llama):
    concept = token_concept()
    wmap, engram = localize(llama, concept), extract(llama, concept)
    W_K, W_K_plus = adapt(llama).parameter("blocks.1.attn.W_K").detach(), engram["blocks.1.attn.W_K"]
    assert wmap.heads("W_K").shape == (2, 2)
    assert float(wmap.heads("K")[1, 0]) == pytest.approx(float(W_K_plus[0].norm() / W_K[0].norm()), rel=1e-5)
    assert wmap.heads("O").shape == (2, 4)


def test_a_target_that_owns_all_the_data_owns_all_the_weight_and_none_of_it_none(llama):
    statistics = collect(llama, token_concept(n=120))
    whole = statistics.groups["target"]
    from dataclasses import replace

    nothing = {
        name: replace(moment, second=0 * moment.second, first=0 * moment.first, count=0)
        for name, moment in whole.items()
    }
    everything = localize(llama, replace(statistics, groups={"target": whole, "reference": nothing}))
    none = localize(llama, replace(statistics, groups={"target": nothing, "reference": whole}))
    assert everything.to_frame()["wnorm"].to_numpy() == pytest.approx(1, abs=1e-5)
    assert none.to_frame()["wnorm"].to_numpy() == pytest.approx(0)


def test_the_frame_has_a_row_a_matrix(gpt2):
    frame = localize(gpt2, token_concept()).to_frame()
    assert list(frame.columns) == ["key", "component", "layer", "expert", "wnorm"]
    assert len(frame) == 2 * 6 + 1
    assert frame["layer"].isna().sum() == 1
    assert frame["component"].iloc[-1] == "W_U"


def test_layers_left_out_are_nan(llama):
    wmap = localize(llama, token_concept(), components=["Q", "gate"], layers=[1])
    assert wmap.components == ("W_Q", "W_gate")
    assert wmap.wnorm[0].isnan().all()
    assert wmap.wnorm[1].isfinite().all()


def test_what_the_map_lacks_is_refused(by_hand):
    with pytest.raises(KeyError, match=r"the map has no 'blocks\.0\.attn\.W_Q'; it has blocks\.1\.attn\.W_Q"):
        by_hand["blocks.0.attn.W_Q"]
    with pytest.raises(ValueError, match="the map has no heads of W_V; it has those of W_Q"):
        by_hand.heads("V")
    with pytest.raises(ValueError, match="the map has no heads of W_U"):
        by_hand.heads("U")


def test_the_figure_shows_every_value_once(llama):
    wmap = localize(llama, token_concept())
    blocks, unembed = wmap.plot().data
    assert list(blocks.y) == list(wmap.components[:-1])
    assert list(blocks.x) == ["0", "1"]
    for row, component in enumerate(wmap.components[:-1]):
        assert list(blocks.z[row]) == pytest.approx(wmap.wnorm[:, wmap.components.index(component)].tolist())
    assert unembed.z[0][0] == pytest.approx(wmap["unembed.W_U"])


def test_the_head_figure_has_a_panel_a_component(llama):
    wmap = localize(llama, token_concept())
    panels = wmap.plot_heads().data
    assert [len(panel.x) for panel in panels] == [4, 2, 2, 4]
    assert panels[1].z[0] == pytest.approx(wmap.heads("K")[0].tolist())
    with pytest.raises(ValueError, match="no attention component"):
        localize(llama, token_concept(), components="gate").plot_heads()


def test_a_map_of_the_unembedding_alone_can_be_drawn(llama):
    wmap = localize(llama, token_concept(), components="U")
    (trace,) = wmap.plot().data
    assert trace.z[0][0] == pytest.approx(wmap["unembed.W_U"])
    assert not math.isnan(wmap.wnorm[-1, 0])


def test_every_variant_has_a_map(any_model):
    wmap = localize(any_model, token_concept(n=10))
    assert all(value > 0 for value in wmap.values())
    assert "unembed.W_U" in wmap
    assert list(wmap) == wmap.to_frame()["key"].tolist()
    assert wmap.plot().layout.title.text == f"W-Norm of 'odd' in {adapt(any_model).info.name}"


def test_the_same_matrices_whichever_way_they_are_asked_for():
    model = build("gpt2")
    statistics = collect(model, token_concept())
    assert localize(model, statistics, layers=[0]).to_frame()["key"].tolist() == [
        site for site in localize(model, statistics).to_frame()["key"] if site.startswith("blocks.0")
    ]
