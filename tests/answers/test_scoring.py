import numpy as np
import pytest
import torch

from engram_interp import Concept, score, testbed
from engram_interp.answers.scoring import example_scores, token_scores
from engram_interp.concepts.concept import TokenExample
from tests.conftest import build, tokens


def test_accuracy_and_loss_by_hand(llama):
    rows = tokens(6, 7)
    counts = rows % 2 == 0
    examples = [TokenExample(row, count) for row, count in zip(rows, counts)]
    log_probs = llama(rows).log_softmax(-1).detach()
    right, loss = [], []
    for row in range(6):
        for pos in range(1, 7):
            if counts[row, pos]:
                right.append(bool(log_probs[row, pos - 1].argmax() == rows[row, pos]))
                loss.append(-float(log_probs[row, pos - 1, rows[row, pos]]))
    found = score(llama, {"a": examples}, batch_size=4)["a"]
    assert found.accuracy == pytest.approx(sum(right) / len(right))
    assert found.loss == pytest.approx(sum(loss) / len(loss), rel=1e-5)
    assert found.n_tokens == len(right)


def test_positions_are_scored_a_few_at_a_time_with_the_same_result(llama, monkeypatch):
    sides = Concept.from_tokens(tokens(6, 7), tokens(9, 5)).sides
    whole = score(llama, sides)
    monkeypatch.setattr("engram_interp.answers.scoring.ROWS", 5)
    for side, result in score(llama, sides).items():
        assert result.accuracy == whole[side].accuracy
        assert result.loss == pytest.approx(whole[side].loss)


def test_groups_are_scored_apart(full):
    question = "What is the capital of Norway?"
    both = score(full, {"right": [(question, "Oslo")], "wrong": [(question, "Lima")]})
    assert both["right"].accuracy == 1.0
    assert both["wrong"].accuracy == 0.5  # the end of sequence is still right
    assert both["right"].n_tokens == both["wrong"].n_tokens == 2


def test_a_batch_in_which_nothing_counts_adds_nothing(llama):
    counts = torch.zeros(6, 7, dtype=torch.bool)
    counts[5] = True
    some = Concept.from_tokens(tokens(6, 7), tokens(6, 7), target_mask=counts, reference_mask=counts)
    only = Concept.from_tokens(tokens(6, 7)[5:], tokens(6, 7)[5:])
    found, expected = score(llama, some.sides, batch_size=2)["target"], score(llama, only.sides)["target"]
    assert (found.accuracy, found.n_tokens) == (expected.accuracy, expected.n_tokens)


def test_a_token_that_the_output_lacks_is_named():
    sides = Concept.from_tokens(tokens(6, 7), tokens(9, 5)).sides
    with pytest.raises(ValueError, match="token 4[0-9].*20"):
        score(build("llama", d_vocab_out=20), sides)


def test_nothing_to_score_is_an_error():
    only_first = torch.zeros(2, 4, dtype=torch.bool)
    only_first[:, 0] = True
    concept = Concept.from_tokens(tokens(2, 4), tokens(2, 4), target_mask=only_first)
    with pytest.raises(ValueError, match="target"):
        score(build("llama"), concept.sides)


def test_examples_add_up_to_the_score_of_all_of_them(full):
    facts = testbed.authors().world_examples[:30]
    found, total = example_scores(full, {"facts": facts}, batch_size=7)["facts"], score(full, {"facts": facts})["facts"]
    alone = [score(full, {"fact": [fact]})["fact"] for fact in facts]
    assert found.accuracy.tolist() == pytest.approx([one.accuracy for one in alone])
    assert found.loss.tolist() == pytest.approx([one.loss for one in alone], rel=1e-3)
    n_tokens = torch.tensor([float(one.n_tokens) for one in alone])
    assert float((found.loss * n_tokens).sum() / n_tokens.sum()) == pytest.approx(total.loss, rel=1e-4)


def test_an_example_without_anything_to_score_is_left_out(llama):
    rows = tokens(3, 4)
    concept = Concept.from_tokens(rows, rows, torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 1, 0]]).bool())
    assert len(example_scores(llama, {"x": concept.target})["x"].loss) == 2
    with pytest.raises(ValueError, match=" x: "):
        example_scores(llama, {"x": list(concept.target)[1:2]})


def test_every_token_by_hand(llama):
    rows = tokens(5, 7)
    counts = rows % 3 > 0
    found = token_scores(llama, {"a": [TokenExample(row, count) for row, count in zip(rows, counts)]}, batch_size=2)[
        "a"
    ]
    for row, scores in enumerate(found):
        at = [pos for pos in range(1, 7) if counts[row, pos]]
        whole = llama(rows[row : row + 1])[0].double().log_softmax(-1).detach()[[pos - 1 for pos in at]]
        said = whole[range(len(at)), rows[row, at]]
        np.testing.assert_allclose(scores.log_probs, said, rtol=1e-4)
        np.testing.assert_array_equal(scores.ranks, (whole > said[:, None]).sum(-1))
        mean = (whole.exp() * whole).sum(-1)
        np.testing.assert_allclose(scores.mean, mean, rtol=1e-4)
        np.testing.assert_allclose(scores.variance, (whole.exp() * whole**2).sum(-1) - mean**2, rtol=1e-3)


def test_of_equal_tokens_the_first_is_the_first_choice(llama):
    with torch.no_grad():
        for parameter in (llama.unembed.W_U, llama.unembed.b_U):
            parameter.zero_()
    row = torch.tensor([5, 3, 0, 7])
    (scores,) = token_scores(llama, {"a": [TokenExample(row, torch.ones(4, dtype=torch.bool))]})["a"]
    assert scores.ranks.tolist() == [3, 0, 7]


def test_impossible_tokens_leave_the_others_finite(llama):
    with torch.no_grad():
        llama.unembed.b_U[7] = -1e6  # exp of it is 0 in float32
    rows = tokens(4, 7)
    scores = token_scores(llama, {"a": [TokenExample(row, torch.ones(7, dtype=torch.bool)) for row in rows]})["a"]
    assert all(np.isfinite(one.mean).all() and np.isfinite(one.variance).all() for one in scores)


def test_an_example_without_scored_tokens_is_named(llama):
    row = tokens(1, 5)[0]
    nothing = TokenExample(row, torch.tensor([True, False, False, False, False]))
    with pytest.raises(ValueError, match=r"a\[1\]"):
        token_scores(llama, {"a": [TokenExample(row, torch.ones(5, dtype=torch.bool)), nothing]})
