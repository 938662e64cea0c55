import math
import weakref
from dataclasses import replace

import pandas as pd
import pytest
import torch

from engram_interp import Concept, LocalizationMap, benchmarks, collect, extract, localize, testbed
from engram_interp.linalg.total import Total
from engram_interp.models import adapt
from engram_interp.statistics.moments import Moment
from tests.conftest import build, token_concept


def table(*rows) -> pd.DataFrame:
    names = ["key", "component", "layer", "expert", "head", "weight_norm", "wnorm", "expected", "excess"]
    frame = pd.DataFrame([dict(zip(names, row)) for row in rows])
    return frame.astype({"layer": "Int64", "expert": "Int64", "head": "Int64"})


@pytest.fixture
def by_hand() -> LocalizationMap:
    # Two heads of (3, 4) and (0, 0) out of (5, 0) and (0, 12): |W+| = 5, |W| = 13, heads 5/5 and 0/12.
    query = "blocks.1.attn.W_Q", "W_Q", 1, None
    rows = (
        (*query, None, 13.0, 5 / 13, 0.2, 25 / 13),
        (*query, 0, 5.0, 1.0, 0.5, 2.0),
        (*query, 1, 12.0, 0.0, 0.5, 0.0),
        ("unembed.W_U", "W_U", None, None, None, 4.0, 0.25, 0.5, 0.5),
    )
    return LocalizationMap(table(*rows), n_layers=2, name="hand", model="none")


def test_the_score_ranks_maps_against_siblings_alone(by_hand):
    by_hand.table["score"] = [1.0, 0.0, 0.0, 9.0]
    by_hand.table["gain"] = [0.5, 1.0, 1.0, 2.0]
    assert by_hand.main == "wnorm"
    against = replace(by_hand, null="siblings", memories="7 memories (by label)")
    assert against.main == "score"
    assert against.top(1)["key"].tolist() == ["unembed.W_U"]
    drawn = against.plot()
    assert (drawn.layout.coloraxis.cmin, drawn.layout.coloraxis.cmax) == (-9, 9)  # standard deviations, around 0
    gain = against.plot("gain").layout.coloraxis
    assert (gain.cmin, gain.cmax) == (-1, 1)  # log2 of 0.5 and 2, around 1
    assert "7 memories (by label)" in against._repr_html_()


def test_a_planted_memory_is_found_and_an_author_like_all_others_is_not(full):
    corpus = testbed.authors()
    known = [example for author in corpus.full[:40] for example in author.examples]
    new, keys = corpus.holdout[0].examples, [f"blocks.2.mlp.{name}" for name in ("W_gate", "W_in", "W_out")]
    model = benchmarks.plant(full, new, known, keys, progress=False)
    options = {"null": "siblings", "draws": 39, "progress": False}
    found = localize(model, Concept(new, known), **options)
    assert found.memories == "40 memories (by the subject that prompts share)"
    starred = found.to_frame()["score_p_value"] <= 0.05
    assert set(found.to_frame()["key"][starred]) == set(keys)
    assert set(found.top(3)["key"]) == set(keys)
    others = [example for author in corpus.full[1:40] for example in author.examples]
    ordinary = localize(full, Concept(corpus.full[0].examples, others), **options)
    assert (ordinary.to_frame()["score_p_value"] > 0.05).all()


def test_siblings_are_taken_where_there_are_enough(full, llama):
    corpus = testbed.authors()
    author, *others = corpus.forget10
    options = {"components": "O", "layers": [0], "progress": False, "draws": 19}
    enough, few = (
        Concept(author.examples, [example for other in others[:n] for example in other.examples]) for n in (19, 18)
    )
    assert localize(full, enough, **options).null == "siblings"
    assert localize(full, few, **options).null == "analytic"
    assert localize(full, few, null="siblings", **options).null == "siblings"
    assert localize(full, few, groups=lambda example: example[0][-3:], **options).null == "siblings"
    assert localize(llama, token_concept(), components="O").null == "analytic"  # tokens have no subjects


def test_values_by_hand(by_hand):
    assert by_hand["blocks.1.attn.W_Q"] == pytest.approx(5 / 13)
    assert by_hand.components == ("W_Q", "W_U")
    assert by_hand.wnorm[1].tolist() == pytest.approx([5 / 13, 0.25])
    assert by_hand.excess[1].tolist() == pytest.approx([25 / 13, 0.5])
    assert by_hand.wnorm[0].isnan().all()
    assert by_hand.heads("Q")[1].tolist() == [1.0, 0.0]
    assert by_hand.heads("Q", "excess")[1].tolist() == [2.0, 0.0]
    assert by_hand.heads("Q")[0].isnan().all()
    assert by_hand.top(1)["key"].tolist() == ["blocks.1.attn.W_Q"]
    assert by_hand.top(2, by="expected")["key"].tolist() == ["unembed.W_U", "blocks.1.attn.W_Q"]


def test_experts_share_a_cell_and_have_a_grid_of_their_own():
    # |W+| of 3 and 4 out of 5 and 12, where 1 and 2 are expected: in the layer's cell 5 / 13, and 5 / 5**0.5 of it.
    keys = [f"blocks.1.mlp.experts.{expert}.W_in" for expert in (0, 1)]
    rows = (
        (keys[0], "W_in", 1, 0, None, 5.0, 3 / 5, 1 / 5, 3.0),
        (keys[1], "W_in", 1, 1, None, 12.0, 4 / 12, 2 / 12, 2.0),
    )
    wmap = LocalizationMap(table(*rows), n_layers=2)
    assert wmap.wnorm[1].tolist() == pytest.approx([5 / 13])
    assert wmap.excess[1].tolist() == pytest.approx([5 / 5**0.5])
    assert wmap.experts("in")[1].tolist() == pytest.approx([3 / 5, 4 / 12])
    assert wmap.experts("in", "excess")[1].tolist() == pytest.approx([3.0, 2.0])
    assert wmap.experts("in")[0].isnan().all()
    assert wmap.to_frame()["expert"].tolist() == [0, 1]
    (panel,) = wmap.plot_experts().data
    assert list(panel.z[1]) == pytest.approx([3 / 5, 4 / 12])
    with pytest.raises(ValueError, match="experts of W_gate.*W_in"):
        wmap.experts("gate")


def test_of_experts_the_least_p_value_stands_in_their_cell():
    rows = [(f"blocks.0.mlp.experts.{e}.W_in", "W_in", 0, e, None, 1.0, 0.5, 0.5, 1.0) for e in (0, 1)]
    frame = table(*rows).assign(p_value=[0.2, 0.03], low=0.5, high=1.5)
    wmap = LocalizationMap(frame, n_layers=1)
    assert wmap.p_values.tolist() == [[pytest.approx(0.03)]]
    assert wmap.grid("low").isnan().all()


def test_a_map_without_experts_has_none_to_plot(by_hand):
    with pytest.raises(ValueError, match="experts of W_in"):
        by_hand.experts("in")
    with pytest.raises(ValueError, match="experts"):
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
    sizes = ["wnorm", "expected", "excess", "fisher", "fisher_expected", "fisher_excess"]
    assert list(frame.columns) == ["key", "component", "layer", "expert", *sizes]
    assert len(frame) == 2 * 6 + 1
    assert frame["layer"].isna().sum() == 1
    assert frame["component"].iloc[-1] == "W_U"


def test_layers_left_out_are_nan(llama):
    wmap = localize(llama, token_concept(), components=["Q", "gate"], layers=[1])
    assert wmap.components == ("W_Q", "W_gate")
    assert wmap.wnorm[0].isnan().all()
    assert wmap.wnorm[1].isfinite().all()


def test_what_the_map_lacks_is_refused(by_hand):
    with pytest.raises(KeyError, match=r"'blocks\.0\.attn\.W_Q'.*blocks\.1\.attn\.W_Q"):
        by_hand["blocks.0.attn.W_Q"]
    with pytest.raises(ValueError, match="heads of W_V.*W_Q"):
        by_hand.heads("V")
    with pytest.raises(ValueError, match="heads of W_U"):
        by_hand.heads("U")
    with pytest.raises(ValueError, match=r"p_value.*resampled"):
        by_hand.p_values  # noqa: B018
    with pytest.raises(ValueError, match="'size'.*wnorm, expected, excess"):
        by_hand.top(by="size")
    with pytest.raises(ValueError, match="wnorm, fisher, excess, fisher_excess.*'expected'"):
        by_hand.plot("expected")


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
    with pytest.raises(ValueError, match="heads"):
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
    assert wmap.plot("excess").layout.title.text.startswith("W-Norm over its analytic null of 'odd'")
    assert wmap.plot().layout.title.text == f"W-Norm of 'odd' in {adapt(any_model).info.name}"


def test_the_same_matrices_whichever_way_they_are_asked_for():
    model = build("gpt2")
    statistics = collect(model, token_concept())
    assert localize(model, statistics, layers=[0]).to_frame()["key"].tolist() == [
        site for site in localize(model, statistics).to_frame()["key"] if site.startswith("blocks.0")
    ]


def test_a_target_like_all_examples_has_an_excess_of_one(any_model):
    # S+ = (1/3) S, exactly: every size is its own null, and the Fisher share is n/N.
    statistics = collect(any_model, token_concept())
    total = {name: statistics.total(name) for name in statistics.inputs}
    part, rest = ({name: scaled(moment, n) for name, moment in total.items()} for n in (1, 2))
    frame = localize(any_model, replace(statistics, groups={"target": part, "reference": rest})).to_frame()
    assert frame["excess"].to_numpy() == pytest.approx(1, abs=1e-6)
    assert frame["fisher_excess"].to_numpy() == pytest.approx(1, abs=1e-6)
    assert frame["fisher"].to_numpy() == pytest.approx(1 / 3, abs=1e-4)


def scaled(moment: Moment, n: int) -> Moment:
    return Moment(n * moment.second, n * moment.first, n * moment.count, n * moment.offered)


def test_the_expected_size_is_that_of_the_kept_directions_times_the_targets_share(llama):
    statistics = collect(llama, token_concept())
    wmap = localize(llama, statistics, rtol=1e-2)
    S = statistics.total("blocks.1.mlp.in").matrix(False)
    lam, U = torch.linalg.eigh(S)
    Pi = U[:, lam > 1e-2 * lam[-1]] @ U[:, lam > 1e-2 * lam[-1]].T
    W = adapt(llama).parameter("blocks.1.mlp.W_gate").detach().double().T
    counts = statistics.counts
    share = counts["target"] / (counts["target"] + counts["reference"])
    row = wmap.to_frame().set_index("key").loc["blocks.1.mlp.W_gate"]
    assert row["expected"] == pytest.approx(float(share * (W @ Pi).norm() / W.norm()), rel=1e-6)
    assert row["excess"] == pytest.approx(row["wnorm"] / row["expected"])


def test_an_unmoved_matrix_has_neither_size_nor_excess(llama):
    moved = adapt(llama).copy()
    moved.blocks[1].mlp.W_gate.data *= 1.5
    wmap = localize(moved, token_concept(), delta_from=llama, null="resampled", draws=19)
    frame = wmap.to_frame().set_index("key")
    gate = frame.loc["blocks.1.mlp.W_gate"]
    others = frame.drop(index="blocks.1.mlp.W_gate")
    assert gate["excess"] > 0.5
    assert gate["fisher_excess"] > 0.5
    assert not others[["wnorm", "excess", "fisher", "fisher_excess", "low", "high"]].to_numpy().any()
    assert (others["p_value"] == 1).all()


def test_a_resampled_null_adds_p_values_and_intervals_of_matrices_and_heads(llama):
    wmap = localize(llama, token_concept(), null="resampled", draws=19)
    assert wmap.p_values.shape == wmap.wnorm.shape
    assert {"p_value", "low", "high", "fisher_p_value", "fisher_low", "fisher_high"} <= set(wmap.to_frame())
    for component, n in (("Q", 4), ("K", 2), ("V", 2), ("O", 4)):
        assert wmap.heads(component, "fisher_p_value").shape == (2, n)
        assert wmap.heads(component, "p_value").isfinite().all()
    analytic = localize(llama, token_concept())
    torch.testing.assert_close(wmap.wnorm, analytic.wnorm, rtol=1e-4, atol=1e-6, equal_nan=True)


def test_stars_mark_what_is_significant(llama):
    wmap = localize(llama, token_concept(), null="resampled", draws=19)
    frame = wmap.table.copy()
    frame["p_value"] = 1.0
    frame.loc[frame["key"] == "blocks.1.mlp.W_gate", "p_value"] = 0.05
    frame.loc[(frame["key"] == "blocks.0.attn.W_K") & (frame["head"] == 1), "p_value"] = 0.01
    marked = replace(wmap, table=frame)
    blocks, _ = marked.plot("excess").data
    stars = [(y, x) for y, row in zip(blocks.y, blocks.text) for x, star in zip(blocks.x, row) if star.endswith("*")]
    assert stars == [("W_gate", "1")]
    keys = marked.plot_heads().data[1]
    assert [["*" in label for label in row] for row in keys.text] == [[False, True], [False, False]]
    assert marked.plot("excess").layout.title.text.startswith("W-Norm over random sets of examples of 'odd'")
    assert repr(marked).endswith("resampled null)")
    assert marked.top(2, by="p_value")["p_value"].tolist() == [0.05, 1.0]
    assert "p ≤ 0.05" in marked.plot().layout.title.text
    assert not any("*" in label for row in localize(llama, token_concept()).plot().data[0].text for label in row)


def test_no_more_than_one_input_is_solved_for_at_a_time(monkeypatch):
    # What the solutions of inputs take does not grow with depth: the one before goes as the next one comes.
    model, alive = build("llama", n_layers=6), []
    solved = Total._solve

    def spy(total, rtol):
        alive.append(weakref.ref(total))
        assert sum(one() is not None for one in alive) <= 2
        return solved(total, rtol)

    monkeypatch.setattr(Total, "_solve", spy)
    localize(model, token_concept())
    assert len(alive) == 25


def test_the_same_call_gives_the_same_bits(llama):
    first, second = (localize(llama, token_concept()).to_frame() for _ in range(2))
    assert first.equals(second)
