import pytest
import torch

from engram_interp import collect, localize
from engram_interp.engrams.parts import Prepared, parts
from engram_interp.linalg.norms import share
from engram_interp.linalg.spectrum import spectrum
from engram_interp.maps.quantities import METRICS, sizes_of
from engram_interp.models import adapt
from engram_interp.options import Run, Solve
from engram_interp.statistics.rows import collect_rows
from tests.conftest import build, folded, token_concept


def parts_of(model, components=None, **options):
    adapter = adapt(model)
    statistics = collect(model, token_concept(n=120), components=components)
    prepared = Prepared(adapter, statistics, adapter.sites(components))
    return list(parts(prepared, Solve(), False)), statistics


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_heads_are_the_parameters_heads(variant):
    model = build(variant)
    for part in parts_of(model, ["Q", "K", "V", "O"])[0]:
        parameter = adapt(model).parameter(part.site.key).detach().double()
        transposed = parameter.mT
        torch.testing.assert_close(part.heads.of(part.weight(part.W)), transposed)


def test_head_moments_are_the_diagonal_blocks(llama):
    part = next(part for part in parts_of(llama, ["O"])[0])
    S = part.data.S
    assert part.heads.moments(S).shape == (4, 8, 8)
    torch.testing.assert_close(part.heads.moments(S)[2], S[16:24, 16:24])


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_the_fisher_share_is_the_share_of_output_energy(variant):
    # Brute force: |W+ X| / |W X| on the inputs themselves, the bias included, and of W_O's heads without it.
    model, concept = build(variant), token_concept(n=120)
    adapter = adapt(model)
    rows = collect_rows(adapter, adapter.sites(), adapter.encode_concept(concept), Run(progress=False))
    wmap = localize(model, concept)
    for part in parts_of(model)[0]:
        X = rows[part.site.input].X.double()
        if part.data.absorbed:
            X = torch.cat([X, torch.ones_like(X[:, :1])], dim=1)
        expected = (X @ part.W_plus.T).norm() / (X @ part.W.T).norm()
        frame = wmap.to_frame().set_index("key")
        assert frame.loc[part.site.key, "fisher"] == pytest.approx(float(expected), rel=1e-4)
        if part.site.component == "W_O":
            columns_of = part.weight(part.W).shape[1] // part.heads.n
            for head in range(part.heads.n):
                columns = slice(head * columns_of, (head + 1) * columns_of)
                z = X[:, columns]
                expected = (z @ part.W_plus[:, columns].T).norm() / (z @ part.W[:, columns].T).norm()
                found = wmap.heads("O", "fisher")[part.site.layer, head]
                assert float(found) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("variant", ["llama", "gpt2", "parallel"])
@pytest.mark.parametrize("n", [120, 4], ids=["full rank", "deficient"])
@pytest.mark.parametrize("with_base", [False, True])
def test_sizes_are_those_of_the_matrices_formed(variant, n, with_base):
    # W+, (n/N) dW Pi and W as they stand in the paper, by an eigendecomposition, and their norms.
    model, concept = build(variant), token_concept(n=n)
    solve = Solve(delta_from=build(variant, seed=5) if with_base else None)
    adapter = adapt(model)
    prepared = Prepared(adapter, collect(model, concept), adapter.sites())
    for part in parts(prepared, solve, False):
        kept = spectrum(part.data.S)
        formed = part.dW @ (part.data.S_plus @ kept.U / kept.lam @ kept.U.T)
        null = 0.3 * part.dW @ kept.U @ kept.U.T
        sizes = sizes_of(part, 0.3)
        for metric in METRICS:
            whole = metric.norms(part, part.W)
            for column, matrix in ((metric.name, formed), (metric.column("expected"), null)):
                expected = share(metric.norms(part, matrix), whole)
                torch.testing.assert_close(sizes[column], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_folding_a_norm_changes_w_norms_but_no_fisher_share(variant):
    # x -> x / w (and - b), W -> W diag(w), its bias + W b: the same outputs, so the same share of them.
    model = build(variant)
    raw, processed = (localize(one, token_concept(n=120)).to_frame().set_index("key") for one in (model, folded(model)))
    keys = [f"blocks.{layer}.{key}" for layer in (0, 1) for key in ("attn.W_Q", "attn.W_K", "mlp.W_in")]
    for key in keys:
        assert processed.loc[key, "fisher"] == pytest.approx(raw.loc[key, "fisher"], rel=1e-3), key
        assert processed.loc[key, "fisher_excess"] == pytest.approx(raw.loc[key, "fisher_excess"], rel=1e-3), key
    moved = [abs(processed.loc[key, "wnorm"] / raw.loc[key, "wnorm"] - 1) for key in keys]
    assert max(moved) > 0.02


def test_a_rescaled_input_changes_w_norms_but_no_fisher_share(llama):
    # Neurons scaled by 1/10 to 10 in W_in, and back in W_out: the same function.
    before = localize(llama, token_concept(n=120)).to_frame().set_index("key")
    for layer in (0, 1):
        scale = torch.logspace(-1, 1, 24)
        adapt(llama).parameter(f"blocks.{layer}.mlp.W_in").data.mul_(scale)
        adapt(llama).parameter(f"blocks.{layer}.mlp.W_out").data.div_(scale[:, None])
    after = localize(llama, token_concept(n=120)).to_frame().set_index("key")
    key = "blocks.1.mlp.W_out"
    assert after.loc[key, "fisher"] == pytest.approx(before.loc[key, "fisher"], rel=1e-3)
    assert abs(after.loc[key, "wnorm"] / before.loc[key, "wnorm"] - 1) > 0.02
