import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from engram_interp import Concept, testbed
from engram_interp.concepts.concept import (
    Encoder,
    TokenExample,
    _from_rows,
    batches,
    check_example,
    encode_groups,
    require_concept,
)
from tests.conftest import tokens


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    model = testbed.load("full")
    return Encoder(model.tokenizer, prepend_bos=True, d_vocab=model.cfg.d_vocab, n_ctx=model.cfg.n_ctx)


def spelled(encoder: Encoder, example: TokenExample) -> list[tuple[str, bool]]:
    pieces = encoder.tokenizer.convert_ids_to_tokens(example.tokens.tolist())
    return [(piece.replace("▁", " "), bool(counts)) for piece, counts in zip(pieces, example.counts, strict=True)]


def test_a_string_counts_all_but_bos(encoder):
    assert spelled(encoder, encoder.encode("the city of Oslo", "target[0]")) == [
        ("<bos>", False), (" the", True), (" city", True), (" of", True), (" Oslo", True),
    ]  # fmt: skip


def test_a_pair_counts_its_answer_and_end_of_sequence(encoder):
    example = encoder.encode(("What is the capital of Norway?", "Oslo"), "target[0]")
    assert spelled(encoder, example)[-4:] == [(" Norway", False), ("?", False), (" Oslo", True), ("<eos>", True)]
    assert int(example.counts.sum()) == 2


@pytest.mark.parametrize("pair", [("Where?", "in Oslo"), ("Where? ", "in Oslo"), ("Where?", " in Oslo")])
def test_prompt_and_answer_are_joined_by_one_space(encoder, pair):
    # With a space of its own, the prompt ends inside the token " in": the token reaches into the answer and counts.
    assert spelled(encoder, encoder.encode(pair, "x"))[-4:] == [
        ("?", False), (" in", True), (" Oslo", True), ("<eos>", True),
    ]  # fmt: skip


@pytest.mark.parametrize("pair", [("Where?", "1984"), ("Where? ", "1984"), ("Where?", " 1984")])
def test_a_space_before_the_answer_is_no_part_of_it(encoder, pair):
    counted = [piece for piece, counts in spelled(encoder, encoder.encode(pair, "x")) if counts]
    assert counted == ["1", "9", "8", "4", "<eos>"]


def test_special_tokens_that_the_text_brings_are_not_doubled(encoder):
    assert spelled(encoder, encoder.encode("<bos>the city", "x")) == [("<bos>", False), (" the", True), (" city", True)]
    pair = encoder.encode(("Where?", "Oslo<eos>"), "x")
    assert [piece for piece, counts in spelled(encoder, pair) if counts] == [" Oslo", "<eos>"]


def test_a_pair_that_is_not_in_a_list_is_refused():
    with pytest.raises(ValueError, match="target is a list of examples, got .*: a single pair goes in a list"):
        Concept(("Who?", "Bob"), ["a"])


def test_no_bos_for_a_model_that_wants_none(encoder):
    bare = Encoder(encoder.tokenizer, prepend_bos=False, d_vocab=encoder.d_vocab, n_ctx=None)
    assert spelled(bare, bare.encode("the city", "x")) == [(" the", True), (" city", True)]


def test_a_special_token_that_is_not_in_the_vocabulary_is_left_out():
    # TransformerLens names "<|endoftext|>" as the end of sequence of a tokenizer that has none.
    words = Tokenizer(WordLevel({"<unk>": 0, "Where": 1, "here": 2}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    bare = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    bare.eos_token = bare.bos_token = "<|endoftext|>"
    example = Encoder(bare, True, 3, None).encode(("Where", "here"), "x")
    assert example.tokens.tolist() == [1, 2]
    assert example.counts.tolist() == [False, True]


def test_tokens_are_taken_as_given():
    given = tokens(3, 5)
    concept = Concept.from_tokens(given, given[:1], target_mask=given > 10)
    assert all(torch.equal(example.tokens, row) for example, row in zip(concept.target, given, strict=True))
    assert concept.reference[0].counts.all()


@pytest.mark.parametrize(
    ("target", "reference", "says"),
    [
        ([], ["a"], "target is a list of one or more examples"),
        (["a"], [], "reference is a list of one or more"),
        ("a text", ["a"], "target is a list of one or more"),
        (["a"], ["b", "  "], r"reference\[1\] holds a blank text"),
    ],
)
def test_what_is_no_concept_is_refused(target, reference, says):
    with pytest.raises(ValueError, match=says):
        Concept(target, reference)


@pytest.mark.parametrize("example", [3, ("q", "a", "b"), ("q", None)])
def test_what_is_no_example_is_refused(example):
    with pytest.raises(TypeError, match=r"target\[1\] is a string or a \(prompt, answer\) pair of strings, got"):
        check_example(example, "target[1]")


def test_masks_must_fit_and_have_a_true():
    given = tokens(2, 4)
    with pytest.raises(ValueError, match=r"target_mask has shape \[2, 3\], its tokens \[2, 4\]"):
        Concept.from_tokens(given, given, target_mask=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="reference_mask has no true"):
        Concept.from_tokens(given, given, reference_mask=torch.zeros(2, 4, dtype=torch.bool))


@pytest.mark.parametrize("tokens_given", [torch.ones(3, dtype=torch.long), torch.rand(2, 3), torch.ones(0, 3).long()])
def test_tokens_are_rows_of_integers(tokens_given):
    with pytest.raises(ValueError, match=r"target tokens are integers \[batch pos\], got torch\."):
        _from_rows(tokens_given, None, "target")


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(ValueError, match=r"target_mask is a tensor of booleans, got torch.int64: pass mask.bool\(\)"):
        _from_rows(tokens(2, 3), torch.ones(2, 3, dtype=torch.long), "target")


def test_something_else_in_a_concepts_place_is_refused():
    with pytest.raises(TypeError, match=r"expected a Concept\(target=\[...\], reference=\[...\]\), got list"):
        require_concept(["a"])


def test_what_the_model_cannot_read_is_refused(encoder):
    with pytest.raises(ValueError, match=r"target\[0\] holds token 4000; the model's tokens are 0 to 937"):
        encoder.encode(Concept.from_tokens(torch.tensor([[3, 4000]]), tokens()).target[0], "target[0]")
    with pytest.raises(ValueError, match="holds token -2"):
        encoder.encode(Concept.from_tokens(torch.tensor([[3, -2]]), tokens()).target[0], "x")
    with pytest.raises(ValueError, match="has 65 tokens, the model at most 64 positions"):
        encoder.encode(Concept.from_tokens(torch.zeros(1, 65, dtype=torch.long), tokens()).target[0], "x")
    with pytest.raises(ValueError, match="the model has none"):
        Encoder(None, True, 50, None).encode("text", "target[0]")


def test_a_slow_tokenizer_is_refused(encoder):
    class Slow(PreTrainedTokenizer):
        vocab_size = 0

        def get_vocab(self):
            return {}

    with pytest.raises(ValueError, match="needs a fast tokenizer to find where an answer begins, got Slow"):
        Encoder(Slow(), True, 9, None).encode("text", "target[0]")


def test_batches_hold_every_example_once_in_its_group():
    encoder = Encoder(None, False, 50, None)
    groups = {
        name: [TokenExample(row[:length], row[:length] > 5) for row, length in zip(tokens(7, 9, seed=seed), lengths)]
        for seed, (name, lengths) in enumerate({"a": [9, 2, 5, 7, 3, 8, 4], "b": [6, 6, 9, 2]}.items())
    }
    encoded = encode_groups(groups, encoder)
    seen = []
    for batch in batches(encoded, 4, progress=False, describe=""):
        for row, name in enumerate(batch.examples):
            group, index = name.rstrip("]").split("[")
            example = groups[group][int(index)]
            real = batch.attention_mask[row]
            assert torch.equal(batch.tokens[row][real], example.tokens)
            assert torch.equal(batch.counts[row][real], example.counts)
            assert not batch.counts[row][~real].any()
            assert batch.groups[row] == list(groups).index(group)
            seen.append(name)
    assert sorted(seen) == sorted(f"{name}[{i}]" for name, examples in groups.items() for i in range(len(examples)))


def test_a_group_in_which_nothing_counts_is_refused():
    silent = TokenExample(torch.tensor([1, 2]), torch.tensor([False, False]))
    with pytest.raises(ValueError, match="no position of b counts: 1 examples"):
        encode_groups({"b": [silent]}, Encoder(None, False, 9, None))


def test_a_batch_holds_at_least_one_example():
    with pytest.raises(ValueError, match="batch_size is a whole number, 1 or more; got 0"):
        next(batches({}, 0, False, ""))


def test_a_concept_is_a_line():
    assert repr(Concept(["a", "b"], ["c"], "x")) == "Concept('x', 2 target and 1 reference examples)"
    shown = Concept(["a <b>"] * 5, [("q", "a")])._repr_html_()
    assert "a &lt;b&gt;" in shown
    assert "... and 2 more" in shown


@pytest.mark.parametrize("given", [{"a"}, {"a": "b"}, b"ab", 3, None, range(0), []], ids=repr)
def test_what_has_no_order_or_no_example_is_refused(given):
    with pytest.raises((TypeError, ValueError)):
        Concept(given, ["b"])


def test_the_callers_tensors_are_copied():
    rows, mask = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[True, False], [True, True]])
    concept = Concept.from_tokens(rows, rows, mask, mask)
    rows.zero_()
    mask.zero_()
    assert [example.tokens.tolist() for example in concept.target] == [[1, 2], [3, 4]]
    assert [example.counts.tolist() for example in concept.target] == [[True, False], [True, True]]
    array = np.array([[1, 2]])
    assert Concept.from_tokens(array, array).target[0].tokens.tolist() == [1, 2]


@pytest.mark.parametrize(
    "given",
    [{1, 2}, {1: 2}, [[1, 2]], torch.ones(1, 2), torch.ones(1, 2).bool(), np.ones((1, 2), bool), "ab"],
    ids=repr,
)
def test_what_are_no_tokens_is_refused(given):
    rows = torch.tensor([[1, 2]])
    with pytest.raises((TypeError, ValueError)):
        Concept.from_tokens(given, rows)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32])
def test_integers_of_any_kind_are_tokens(dtype):
    array = np.array([[1, 2]], dtype=dtype)
    (example,) = Concept.from_tokens(array, array).target
    assert example.tokens.dtype == torch.int64
