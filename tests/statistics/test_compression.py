"""Leading directions and what is left, spread evenly: close to the moment, and measured."""

import logging

import pytest
import torch

from engram_interp import Statistics, collect, localize
from engram_interp.statistics.compression import compressed
from engram_interp.statistics.moments import CompressedMoment, Moment, MomentOfRows
from tests.conftest import build, token_concept


def moment(d: int = 40, n: int = 400, leading: int = 4) -> Moment:
    """Inputs of which a few directions carry most of the energy, around a mean."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    X[:, :leading] *= 20
    X += 5
    return Moment(X.T @ X, X.sum(0), n, n)


def test_what_is_cut_off_is_spread_evenly():
    whole = moment()
    found = compressed(whole, 0.95)
    assert isinstance(found, CompressedMoment)
    assert found.U.shape[1] == 4
    S, s = found.matrix(ones=False), whole.first
    # The trace, the sum, the mean's own direction and the counts are kept.
    assert float(S.trace()) == pytest.approx(float(whole.second.trace()))
    assert torch.equal(found.first, whole.first)
    assert (found.count, found.offered, found.width) == (400, 400, 40)
    C, C0 = S - torch.outer(s, s) / 400, whole.second - torch.outer(s, s) / 400
    lam, lam0 = torch.linalg.eigvalsh(C), torch.linalg.eigvalsh(C0)
    torch.testing.assert_close(lam[-4:], lam0[-4:])
    torch.testing.assert_close(lam[:-4], lam0[:-4].mean().expand(36))


def test_with_a_row_of_ones_it_stays_a_second_moment():
    found = compressed(moment(), 0.95).matrix(ones=True)
    assert float(torch.linalg.eigvalsh(found)[0]) > 0
    assert float(found[-1, -1]) == 400


def test_no_moment_becomes_larger():
    flat = moment(leading=0)
    assert compressed(flat, 0.9) is flat
    rows = MomentOfRows(torch.randn(3, 40), 3)
    assert compressed(rows, 0.5) is rows


def test_all_energy_is_everything():
    whole = moment()
    assert compressed(whole, 1.0) is whole


def test_it_adds_up_like_any_moment():
    whole, found = moment(), compressed(moment(), 0.95)
    torch.testing.assert_close((found + whole).second, found.second + whole.second)
    torch.testing.assert_close((whole + found).second, found.second + whole.second)
    assert ((found * 2.0).count, (found * 2.0).offered) == (2.0 * 400, 800)


@pytest.fixture
def statistics():
    model = build("llama", d_mlp=80)
    return model, collect(model, token_concept(n=300))


def test_the_error_is_measured_on_maps_and_engrams_and_told(statistics, caplog):
    model, whole = statistics
    with caplog.at_level(logging.WARNING, "engram_interp"):
        small = whole.compress(0.8, model)
    errors = small.compression.set_index("key")
    before, after = (localize(model, one, absorb_bias=False) for one in (whole, small))
    for key in before:
        assert errors.loc[key, "wnorm"] == pytest.approx(before[key], rel=1e-6)
        assert errors.loc[key, "wnorm_after"] == pytest.approx(after[key], rel=1e-6)
    assert f"{errors['error'].max():.3g} at most" in caplog.text


def test_compressed_statistics_are_saved_and_loaded(statistics, tmp_path):
    model, whole = statistics
    small = whole.compress(0.8)
    assert any(isinstance(one, CompressedMoment) for one in small.groups["reference"].values())
    small.save(tmp_path / "small.safetensors")
    loaded = Statistics.load(tmp_path / "small.safetensors")
    assert dict(localize(model, loaded)) == dict(localize(model, small))
    assert loaded.counts == whole.counts


@pytest.mark.parametrize("energy", [0, -1.0, 1.1])
def test_a_share_that_is_none_is_refused(statistics, energy):
    with pytest.raises(ValueError, match=str(energy)):
        statistics[1].compress(energy)


def test_another_models_statistics_are_refused(statistics):
    with pytest.raises(ValueError, match="another model"):
        statistics[1].compress(0.9, build("llama", seed=3, d_mlp=80))
