import pytest
import torch

from engram_interp.sae.rule import Rule, firing


def test_without_a_threshold_anything_above_zero_fires():
    activation = torch.tensor([[-1.0, 0.0, 1e-6]])
    assert firing(activation, 0.0).tolist() == [[False, False, True]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(per="word"), "per .*'word'"),
        (dict(reference="other"), "reference .*matched-positions.*'other'"),
        (dict(per="example", share=2), "share .*2$"),
        (dict(share=0.5), "share.*per='example'.*per='token'"),
        (dict(threshold=-1), "threshold .*-1"),
        (dict(threshold=float("nan")), "threshold .*nan"),
        (dict(quantile=1.5), r"quantile .*1\.5"),
        (dict(quantile=0.5, threshold=1.0), r"threshold.*quantile.*1\.0 and 0\.5"),
        (dict(max_tokens=0), "max_tokens .*0$"),
    ],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Rule(**options)
