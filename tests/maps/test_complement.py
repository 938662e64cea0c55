import pytest
import torch

from engram_interp import Concept, Engram, complement, decompose, null_check
from engram_interp.effects.null_check import ELSEWHERE, THROUGH_NULL
from engram_interp.linalg.spectrum import spectrum
from engram_interp.models import adapt
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.conftest import build, tokens
from tests.maps.test_decomposition import concepts, rows_of


def few(n: int = 1, pos: int = 5) -> list:
    rows = tokens(n, pos)
    return list(Concept.from_tokens(rows, rows).target)


def test_of_all_concepts_only_what_the_data_lack_is_left(any_model):
    parts = decompose(any_model, {"A": few(2, 4), "B": few(1, 3)})
    found = complement(parts)
    assert found.names == ("A", "B")
    for row in found.inputs.to_dict("records"):
        S = sum(parts.kept[name][row["input"]].matrix for name in parts)
        rank = int(torch.linalg.matrix_rank(S, hermitian=True))
        assert row["null"] == len(S) - rank
        assert row["complement"] == row["null"] + row["below_cut"]
        assert row["unowned"] == 0
    frame = found.to_frame()
    assert ((frame["null_share"] > 0) & (frame["null_share"] <= frame["weight_share"] + 1e-12)).all()
    assert (frame["weight_share"] <= 1 + 1e-12).all()


def test_weight_energy_is_that_of_the_weight_times_q(gpt2):
    parts = decompose(gpt2, concepts())
    found = complement(parts, ["A", "C"]).to_frame().set_index("key")
    name = "blocks.0.attn.in"
    S_plus, S = parts.moment(name, ["A", "C"]), parts.moment(name, list(parts))
    Q = torch.eye(17).double() - spectrum(S).solve(S_plus)
    W, b = (adapt(gpt2).parameter(f"blocks.0.attn.{one}_Q").detach().double() for one in ("W", "b"))
    W = W.permute(0, 2, 1).flatten(0, 1)
    augmented = torch.cat([W, b.flatten()[:, None]], dim=1)
    expected = float((augmented @ Q)[:, :-1].norm() ** 2 / W.norm() ** 2)
    assert found.at["blocks.0.attn.W_Q", "weight_share"] == pytest.approx(expected)
    assert found.at["blocks.0.attn.W_Q", "complement"] == pytest.approx(float(Q.trace()), rel=1e-6)


def test_of_some_concepts_what_the_others_own_is_left_too(llama):
    parts = decompose(llama, concepts())
    some, rest = complement(parts, ["A", "B"]), parts.diagnose({"C", "rest"})
    assert some.inputs["unowned"].tolist() == pytest.approx(rest.inputs["owned"].tolist(), rel=1e-6)


def test_what_a_coarser_cut_drops_is_left_but_not_null(llama):
    parts = decompose(llama, concepts(), rtol=0.05)
    found = complement(parts)
    assert (found.inputs["null"] == 0).all()
    assert (found.inputs["below_cut"] > 0).all()
    assert found.to_frame()["null_share"].tolist() == pytest.approx([0] * 15)


def test_any_change_through_the_null_leaves_every_logit(any_model):
    before = {name: parameter.clone() for name, parameter in any_model.named_parameters()}
    found = null_check(any_model, few())
    null, elsewhere = found.loc[THROUGH_NULL], found.loc[ELSEWHERE]
    assert null["largest_change"] < 1e-4 * max(1.0, null["largest_logit"])
    assert elsewhere["largest_change"] > 1000 * null["largest_change"]
    assert null["answers_changed"] == 0
    assert null["matrices"] == len(adapt(any_model).sites())
    for name, parameter in any_model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_the_perturbations_are_as_large_as_is_said(llama, monkeypatch):
    sizes = []
    injected = Engram.injected
    monkeypatch.setattr(Engram, "injected", lambda self, *rest: sizes.append(self.wnorm()) or injected(self, *rest))
    null_check(llama, few(), size=0.25)
    assert len(sizes) == 2
    for wnorm in sizes:
        assert list(wnorm.values()) == pytest.approx([0.25] * len(wnorm), rel=1e-5)


def test_prompts_and_bos_count_in_the_check(full):
    found = null_check(full, [("Where was Petra Dorlund born?", "in north Toledo")], components=["K", "V"])
    assert found.at[THROUGH_NULL, "largest_change"] < 1e-3
    assert found.at[ELSEWHERE, "largest_change"] > 1


@pytest.mark.parametrize("family", ["Qwen2", "Mixtral"])
def test_bridges_are_checked_too(family):
    found = null_check(bridge_of("tiny", huggingface.make(family)), few())
    assert found.at[THROUGH_NULL, "largest_change"] < 1e-4
    assert found.at[ELSEWHERE, "largest_change"] > 1e-2


def test_experts_that_nothing_reaches_are_null_throughout():
    parts = decompose(bridge_of("tiny", huggingface.make("Mixtral")), {"one": few(1, 2)})
    unreached = next(name for name, kept in parts.kept["one"].items() if not kept.n_floats)
    found = complement(parts).to_frame()
    assert found.loc[found["input"] == unreached, "null_share"].tolist() == pytest.approx(
        [1.0] * (found["input"] == unreached).sum()
    )


def test_of_experts_that_nothing_reaches_the_check_knows_nothing():
    found = null_check(bridge_of("tiny", huggingface.make("Mixtral")), few(1, 2))
    assert found.notna().all(axis=None)
    assert found.at[THROUGH_NULL, "largest_change"] < 1e-4
    assert found.at[ELSEWHERE, "answers_changed"] < 1 or found.at[ELSEWHERE, "largest_change"] > 1e-2


def test_wide_inputs_have_what_their_float32_sums_do_not_show():
    # 1024 directions, the least of them 1e-3 of the largest: a thousandth of its square is below the cut, not nothing.
    model = build("unnormalized", d_model=1024, n_layers=1, d_vocab=200)
    with torch.no_grad():
        model.embed.W_E.copy_(torch.nn.functional.pad(torch.eye(200), (0, 824)) * torch.logspace(0, -3, 200)[:, None])
        model.pos_embed.W_pos.zero_()
    rows = torch.arange(200).view(20, 10)
    parts = decompose(model, {"A": list(Concept.from_tokens(rows, rows).target)}, components="Q", absorb_bias=False)
    (row,) = complement(parts).inputs.to_dict("records")
    assert row["null"] == 824
    assert row["below_cut"] > 50


def test_an_edited_model_is_refused(llama):
    parts = decompose(llama, concepts())
    with parts["A"].ablated(llama, 2.0), pytest.raises(RuntimeError, match="weights have changed"):
        complement(parts)


def test_half_precision_and_sizes_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"\.W_\w+ .*half precision"):
        null_check(bridge_of("tiny", huggingface.make("Llama").to(torch.bfloat16)), few())
    for size in (0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"size.*{size}"):
            null_check(build("llama"), few(), size=size)


def test_data_that_leave_no_null_are_refused():
    with pytest.raises(ValueError, match="810 positions"):
        null_check(build("llama"), rows_of(90, 4))


def test_what_is_not_there_is_refused(llama):
    parts = decompose(llama, concepts())
    with pytest.raises(ValueError, match="'A'.*'Z'"):
        complement(parts, "Z")
    with pytest.raises(ValueError, match="weight_share, null_share.*'rank'"):
        complement(parts).plot("rank")
    assert repr(complement(parts, "A")).startswith("Complement(of 1 concepts, 15 matrices of ")


def test_the_figure_shows_the_shares(llama):
    found = complement(decompose(llama, {"A": few()}))
    heatmap, unembed = found.plot().data
    frame = found.to_frame().set_index("key")
    row = list(heatmap.y).index("W_gate")
    assert list(heatmap.z[row]) == pytest.approx(
        [frame.at[f"blocks.{layer}.mlp.W_gate", "weight_share"] for layer in (0, 1)], rel=1e-6
    )
    assert unembed.z[0][0] == pytest.approx(frame.at["unembed.W_U", "weight_share"], rel=1e-6)
