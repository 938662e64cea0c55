import math

import pytest

from analyses.studies.localization.forgetting import accuracy, first_matrices, relearn, steps_until
from engram_interp import testbed


def test_first_matrices_fill_a_share_of_all_weights(full):
    # A layer has 65536 weights in W_Q and W_O, 16384 in W_K and W_V, and 3 x 69632 in its MLP: 372736. A twelfth of
    # four layers' is 124245: W_Q, W_K and W_V fit, W_O and the MLPs do not, and one more W_K does.
    order = ["attn.W_Q", "attn.W_K", "attn.W_V", "attn.W_O", "mlp.W_gate", "mlp.W_in", "mlp.W_out"]
    keys = [f"blocks.{layer}.{name}" for layer in range(4) for name in order]
    found = first_matrices(full, {key: float(-i) for i, key in enumerate(keys)}, 1 / 12)
    assert found == [*keys[:3], "blocks.1.attn.W_K"]


def test_the_first_step_at_which_it_is_back():
    assert steps_until([0.1, 0.4, 0.95, 0.2], 0.9) == 12  # every 6 steps
    assert math.isnan(steps_until([0.1, 0.4], 0.9))


def test_relearning_brings_back_what_is_trained_and_leaves_the_model(full):
    new = testbed.authors().holdout[0].examples[:4]
    before = {key: value.clone() for key, value in full.state_dict().items()}
    seen = relearn(full, new, lambda model: accuracy(model, new))
    assert seen[-1] > seen[0]
    assert seen[-1] == pytest.approx(1.0)
    assert all(before[key].equal(value) for key, value in full.state_dict().items())
