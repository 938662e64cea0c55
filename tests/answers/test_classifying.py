from types import SimpleNamespace

import pytest
import torch
from torch import nn

from engram_interp import Concept, score
from engram_interp.answers.classifying import classified
from engram_interp.concepts.data import DataBatch


def batch_of(labels) -> DataBatch:
    n = 3
    return DataBatch(
        torch.zeros(n, 2), labels, torch.ones(n, 1).bool(), torch.zeros(n).long(), torch.arange(n), ("a",) * n
    )


def test_right_ones_and_losses_by_hand():
    # exp(0) / (exp(0) + exp(ln 3)) = 1/4, and 3/4.
    logits = torch.tensor([[0.0, 3.0], [0.0, 3.0], [3.0, 0.0]]).clamp(max=1.0986123)
    found = classified(logits, batch_of(torch.tensor([1, 0, 0])))
    assert found[:, 0].tolist() == [1.0, 0.0, 1.0]
    torch.testing.assert_close(found[:, 1].exp(), torch.tensor([4 / 3, 4.0, 4 / 3]).double(), atol=1e-6, rtol=0)


def test_outputs_may_lie_in_a_tuple_or_have_logits():
    logits, batch = torch.eye(3), batch_of(torch.tensor([0, 1, 2]))
    for outputs in ((logits, "cache"), SimpleNamespace(logits=logits)):
        assert classified(outputs, batch)[:, 0].tolist() == [1.0, 1.0, 1.0]
    assert classified(logits, batch_of(None))[:, 0].isnan().all()


@pytest.mark.parametrize(
    ("outputs", "labels", "match"),
    [(torch.eye(3), torch.tensor([0, 1, 3]), "0 to 2.*have 3"), (torch.eye(3), torch.tensor([0, -1, 2]), "have -1"),
     (torch.zeros(3, 2, 2), torch.tensor([0, 1, 1]), r"\[3, 2, 2\]"), ({"a": 1}, torch.tensor([0, 1, 1]), "dict")],
)  # fmt: skip
def test_what_is_no_classification_is_refused(outputs, labels, match):
    with pytest.raises(ValueError, match=match):
        classified(outputs, batch_of(labels))


def test_a_score_of_groups_is_the_share_of_right_examples():
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.eye(2)
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1])
    concept = Concept.from_batches([(x, y)], [(x[:1], y[:1])], labelled=True)
    found = score(model, concept.sides)
    assert (found["target"].accuracy, found["reference"].accuracy) == (pytest.approx(2 / 3), 1.0)
    assert found["target"].n_tokens == 3
