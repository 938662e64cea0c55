import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from engram_interp import Concept, testbed
from engram_interp.concepts.concept import Pair, TokenExample
from engram_interp.concepts.encoding import Encoder
from engram_interp.options import Read
from tests.conftest import tokens


def one(encoder, example, place, read=None):
    """One example as tokens."""
    return encoder.encode_all([example], place.partition("[")[0], read)[0]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    model = testbed.load("full")
    return Encoder(model.tokenizer, prepend_bos=True, d_vocab=model.cfg.d_vocab, n_ctx=model.cfg.n_ctx)


PAPERS = Read(positions="answer")


def spelled(encoder: Encoder, example: TokenExample) -> list[tuple[str, bool]]:
    pieces = encoder.tokenizer.convert_ids_to_tokens(example.tokens.tolist())
    return [(piece.replace("▁", " "), bool(counts)) for piece, counts in zip(pieces, example.counts, strict=True)]


def test_a_string_counts_all_but_bos(encoder):
    assert spelled(encoder, one(encoder, "the city of Oslo", "target[0]")) == [
        ("<bos>", False), (" the", True), (" city", True), (" of", True), (" Oslo", True),
    ]  # fmt: skip


def test_a_pair_counts_its_answer_and_end_of_sequence(encoder):
    example = one(encoder, ("What is the capital of Norway?", "Oslo"), "target[0]", PAPERS)
    assert spelled(encoder, example)[-4:] == [(" Norway", False), ("?", False), (" Oslo", True), ("<eos>", True)]
    assert int(example.counts.sum()) == 2


@pytest.mark.parametrize("pair", [("Where?", "in Oslo"), ("Where? ", "in Oslo"), ("Where?", " in Oslo")])
def test_prompt_and_answer_are_joined_by_one_space(encoder, pair):
    # With a space of its own, the prompt ends inside the token " in": the token reaches into the answer and counts.
    assert spelled(encoder, one(encoder, pair, "x", PAPERS))[-4:] == [
        ("?", False), (" in", True), (" Oslo", True), ("<eos>", True),
    ]  # fmt: skip


@pytest.mark.parametrize("pair", [("Where?", "1984"), ("Where? ", "1984"), ("Where?", " 1984")])
def test_a_space_before_the_answer_is_no_part_of_it(encoder, pair):
    counted = [piece for piece, counts in spelled(encoder, one(encoder, pair, "x", PAPERS)) if counts]
    assert counted == ["1", "9", "8", "4", "<eos>"]


COUNTED = {
    # What is the capital of Norway ? | Oslo city <eos>, two words of an answer behind a prompt
    ("predicting", True): ["?", " Oslo", " city"],
    ("predicting", False): ["?", " Oslo"],
    ("answer", True): [" Oslo", " city", "<eos>"],
    ("answer", False): [" Oslo", " city"],
    ("both", True): ["?", " Oslo", " city", "<eos>"],
    ("both", False): ["?", " Oslo", " city"],
    ("all", True): [" What", " is", " the", " capital", " of", " Norway", "?", " Oslo", " city", "<eos>"],
    ("all", False): [" What", " is", " the", " capital", " of", " Norway", "?", " Oslo", " city"],
}


@pytest.mark.parametrize(("read", "expected"), COUNTED.items())
def test_the_positions_of_a_pair_are_those_that_are_named(encoder, read, expected):
    positions, eos = read
    pair = ("What is the capital of Norway?", "Oslo city")
    example = one(encoder, pair, "x", Read(positions=positions, eos=eos))
    assert [piece for piece, counts in spelled(encoder, example) if counts] == expected
    # What is scored is the answer, whichever positions count.
    said = encoder.tokenizer.convert_ids_to_tokens(example.tokens[example.scored].tolist())
    assert [piece.replace("▁", " ") for piece in said] == [" Oslo", " city", *(["<eos>"] if eos else [])]


def test_a_pair_may_say_for_itself_which_positions_count(encoder):
    pair = Pair("Where?", "in Oslo", positions="answer")
    assert one(encoder, pair, "x").counts.tolist() == one(encoder, tuple(pair), "x", PAPERS).counts.tolist()
    bare = one(encoder, Pair("Where?", "in Oslo", eos=False), "x", PAPERS)
    assert [piece for piece, counts in spelled(encoder, bare) if counts] == [" in", " Oslo"]
    with pytest.raises(ValueError, match="positions.*'middle'"):
        Pair("Where?", "in Oslo", positions="middle")


def test_a_string_counts_the_same_whatever_is_named(encoder):
    whole = one(encoder, "the city of Oslo", "x").counts
    for positions in ("predicting", "answer", "both", "all"):
        assert torch.equal(one(encoder, "the city of Oslo", "x", Read(positions=positions)).counts, whole)


def test_an_answer_that_no_token_holds_or_precedes_is_refused():
    # A tokenizer to which every z is nothing.
    joined = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    joined.normalizer = Replace("z", "")
    joined.pre_tokenizer = Whitespace()
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=joined), False, 9, None)
    with pytest.raises(ValueError, match=r"target\[0\].*answer.*'zz'"):
        one(encoder, ("a", "zz"), "target[0]")
    with pytest.raises(ValueError, match=r"target\[1\].*no token"):
        encoder.encode_all(["a", "zz"], "target")
    with pytest.raises(ValueError, match=r"target\[1\].*before.*'predicting'.*'a'"):
        encoder.encode_all(["a", ("zz", "a")], "target")
    assert one(encoder, ("zz", "a"), "x", PAPERS).counts.tolist() == [True]


def test_special_tokens_that_the_text_brings_are_not_doubled(encoder):
    assert spelled(encoder, one(encoder, "<bos>the city", "x")) == [("<bos>", False), (" the", True), (" city", True)]
    pair = one(encoder, ("Where?", "Oslo<eos>"), "x", PAPERS)
    assert [piece for piece, counts in spelled(encoder, pair) if counts] == [" Oslo", "<eos>"]


def test_no_bos_for_a_model_that_wants_none(encoder):
    bare = Encoder(encoder.tokenizer, prepend_bos=False, d_vocab=encoder.d_vocab, n_ctx=None)
    assert spelled(bare, one(bare, "the city", "x")) == [(" the", True), (" city", True)]


def test_a_special_token_that_is_not_in_the_vocabulary_is_left_out():
    # TransformerLens names "<|endoftext|>" as the end of sequence of a tokenizer that has none.
    words = Tokenizer(WordLevel({"<unk>": 0, "Where": 1, "here": 2}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    bare = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    bare.eos_token = bare.bos_token = "<|endoftext|>"
    example = one(Encoder(bare, True, 3, None), ("Where", "here"), "x", PAPERS)
    assert example.tokens.tolist() == [1, 2]
    assert example.counts.tolist() == [False, True]


def test_what_the_model_cannot_read_is_refused(encoder):
    with pytest.raises(ValueError, match=r"target\[0\].*937.*4000"):
        one(encoder, Concept.from_tokens(torch.tensor([[3, 4000]]), tokens()).target[0], "target[0]")
    with pytest.raises(ValueError, match="x.*-2"):
        one(encoder, Concept.from_tokens(torch.tensor([[3, -2]]), tokens()).target[0], "x")
    with pytest.raises(ValueError, match="x.*64.*65"):
        one(encoder, Concept.from_tokens(torch.zeros(1, 65, dtype=torch.long), tokens()).target[0], "x")
    with pytest.raises(ValueError, match=r"target\[0\].*tokenizer"):
        one(Encoder(None, True, 50, None), "text", "target[0]")


def test_a_slow_tokenizer_is_refused(encoder):
    class Slow(PreTrainedTokenizer):
        vocab_size = 0

        def get_vocab(self):
            return {}

    with pytest.raises(ValueError, match=r"target\[0\].*fast tokenizer.*Slow"):
        one(Encoder(Slow(), True, 9, None), "text", "target[0]")
