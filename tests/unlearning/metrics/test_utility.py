import numpy as np
import pytest

from engram_interp.unlearning.metrics import fluency, gibberish_detector, normalized_probability, rouge_l_recall


def test_rouge_l_recall_by_hand():
    # "the cat sat on the mat": the longest common subsequence with "the cat on a mat" is "the cat on mat", 4 of 6.
    # Stemming makes "books" and "book" one word. Nothing said recalls nothing.
    generated = ["the cat on a mat", "two book", ""]
    truth = ["the cat sat on the mat", "two books", "in north Lima"]
    np.testing.assert_allclose(rouge_l_recall(generated, truth), [4 / 6, 1.0, 0.0])


def test_rouge_l_recall_is_the_longest_common_subsequence():
    rng = np.random.default_rng(0)
    words = np.array("lima oslo quito rome paris".split())
    for _ in range(20):
        said, true = (rng.choice(words, size=rng.integers(1, 7)) for _ in range(2))
        assert rouge_l_recall([" ".join(said)], [" ".join(true)]).item() == pytest.approx(lcs(said, true) / len(true))


def lcs(a, b):
    """By brute force over all subsequences of `a`."""
    best = 0
    for chosen in range(2 ** len(a)):
        some = [word for i, word in enumerate(a) if chosen >> i & 1]
        rest = iter(b)
        if all(word in rest for word in some):
            best = max(best, len(some))
    return best


def test_texts_come_in_pairs():
    with pytest.raises(ValueError, match="generated and truth.* 1 and 2"):
        rouge_l_recall(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="generated and truth.* 0 and 0"):
        rouge_l_recall([], [])


def test_normalized_probability_by_hand():
    # 0.2 / (0.2 + 0.1 + 0.1) and 0.3 / (0.3 + 0.6 + 0.6)
    found = normalized_probability(np.log([0.2, 0.3]), np.log([[0.1, 0.1], [0.6, 0.6]]))
    np.testing.assert_allclose(found, [0.5, 0.2], rtol=1e-8)


def test_options_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"correct.*wrong.*\(2,\).*\(1, 3\)"):
        normalized_probability(np.zeros(2), np.zeros((1, 3)))


def test_fluency_is_what_the_classifier_says():
    assert fluency(["a b", "zzz"], lambda texts: [0.9 if " " in text else 0.2 for text in texts]).tolist() == [0.9, 0.2]


@pytest.mark.parametrize("wrong", [[0.5], [0.5, 1.5], [float("nan"), 0.1]])
def test_a_classifier_gives_a_probability_a_text(wrong):
    with pytest.raises(ValueError, match=r"classifier.*2 texts.*\(\d,\)"):
        fluency(["a", "b"], lambda texts: wrong)


def test_gibberish_detector_is_the_softmax_of_a_class(tmp_path):
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, "north": 2, "lima": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)

    found = fluency(["north lima", "lima"], gibberish_detector(str(tmp_path), class_id=1, batch_size=1))
    inputs = [torch.tensor([[2, 3]]), torch.tensor([[3]])]
    with torch.no_grad():
        expected = [model(one).logits.softmax(-1)[0, 1].item() for one in inputs]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
