from engram_interp.sae.partition import partition
from engram_interp.sae.rule import Rule
from tests.sae.readings import reading


def test_snippets_show_strong_and_weak_and_near_misses():
    corpus = [reading([float(a), 0.0]) for a in (5, 1, 3, 0, 0.5, 0)]
    split = partition(corpus, Rule(threshold=1.0), ["it"], decode=lambda tokens: "ab"[: len(tokens)])
    target, reference = ([one for one in split.snippets(2) if one.side == side] for side in ("target", "reference"))
    assert [one.activation[0] for one in target] == [5.0, 1.0]  # the strongest and the weakest of 5, 3, 1
    assert target[0].pieces == ["a", "b"]
    assert target[0].belongs == [True, False]
    assert reference[0].activation[0] == 0.5  # came nearest to firing
    assert len(reference) == 2


def test_a_long_example_is_shown_around_its_peak():
    activation = [0.0] * 500
    activation[300] = 2.0
    (snippet, *_) = partition([reading(activation)], Rule(), ["it"]).snippets()
    assert len(snippet.pieces) == 40
    assert snippet.pieces[snippet.activation.index(2.0)] == " 300"  # numbers, where nothing decodes


def test_a_character_of_several_tokens_is_shown_at_its_last():
    text = "a\u00e9\u65e5b"  # 1, 2, 3 and 1 bytes, a token each
    codes = list(text.encode())
    split = partition(
        [reading([1.0] * 7, tokens=codes), reading([0.0])], Rule(), ["it"],
        decode=lambda tokens: bytes(tokens).decode(errors="replace"),
    )  # fmt: skip
    assert split.snippets()[0].pieces == ["a", "", "\u00e9", "", "", "\u65e5", "b"]
