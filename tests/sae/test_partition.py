import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engram_interp.sae.partition import Reading, Rule, firing, partition, thresholds


def reading(activation, tokens=None, counts=None, text=None) -> Reading:
    """One feature, every token text that counts unless said otherwise."""
    n = len(activation)
    everywhere = [True] * n
    return Reading(
        torch.tensor(tokens or list(range(n))),
        torch.tensor(counts or everywhere),
        torch.tensor(text or everywhere),
        torch.tensor(activation, dtype=torch.float32)[:, None],
    )


def places(masks) -> list[list[int]]:
    return [mask.nonzero().flatten().tolist() for mask in masks]


def test_tokens_go_to_their_side():
    # 0 is silent, 0.5 lies below the threshold, 1.0 at it; BOS (first of the second) counts in neither side.
    split = partition(
        [reading([0.0, 0.5, 1.0]), reading([9.0, 2.0], counts=[False, True])], Rule(threshold=1.0), ["it"]
    )
    assert places(split.target) == [[2], [1]]
    assert places(split.reference) == [[0, 1], []]
    assert split.counts == {"target": 2, "reference": 2, "unused": 0}
    assert split.firing_rate == 3 / 5  # by text, where the first of the second is one token
    assert [example.counts.tolist() for example in split.examples("target")] == [[False, False, True], [False, True]]
    assert len(split.examples("reference")) == 1


def test_without_a_threshold_anything_above_zero_fires():
    activation = torch.tensor([[-1.0, 0.0, 1e-6]])
    assert firing(activation, 0.0).tolist() == [[False, False, True]]


def test_whole_examples_fire_by_their_prompts_too():
    # A prompt of two tokens that fires, and an answer that does not; then an example that is silent.
    pair = reading([0.0, 3.0, 0.0, 0.0], counts=[False, False, True, True])
    silent = reading([0.0, 0.0])
    split = partition([pair, silent], Rule(per="example"), ["it"])
    assert places(split.target) == [[2, 3], []]
    assert places(split.reference) == [[], [0, 1]]
    assert split.to_frame()["largest_activation"].tolist() == [3.0, 0.0]  # of the text that decided
    with pytest.raises(ValueError, match="fires at none of the 4 tokens that count: it fires in prompts only"):
        partition([pair, silent], Rule(), ["it"])


@pytest.mark.parametrize(("share", "fires"), [(0.0, True), (0.5, True), (0.51, False)])
def test_a_share_of_the_tokens_must_fire(share, fires):
    half, whole, silent = reading([1.0, 1.0, 0.0, 0.0]), reading([1.0]), reading([0.0])
    split = partition([half, whole, silent], Rule(per="example", share=share), ["it"])
    assert bool(split.target[0].any()) is fires
    assert split.target[1].all()


def test_a_quantile_is_of_the_activations_above_zero():
    # Of 1, 2, 3, 4 the median is 2.5; zeros and what is no text do not count.
    corpus = [reading([0.0, 1.0, 2.0]), reading([3.0, 4.0, 100.0], text=[True, True, False])]
    assert thresholds(corpus, Rule(quantile=0.5)).tolist() == [2.5]
    assert places(partition(corpus, Rule(quantile=0.5), ["it"]).target)[0] == []
    assert places(partition(corpus, Rule(quantile=0), ["it"]).target)[0] == [1, 2]


def test_matched_tokens_stand_in_both_sides():
    # Token 7 fires and is silent; 8 only fires, 9 is only silent.
    corpus = [reading([1.0, 1.0, 0.0], tokens=[7, 8, 9]), reading([0.0, 0.0], tokens=[7, 9])]
    split = partition(corpus, Rule(reference="matched"), ["it"])
    assert places(split.target) == [[0], []]
    assert places(split.reference) == [[], [0]]
    assert split.counts["unused"] == 3
    with pytest.raises(ValueError, match="fires wherever its tokens stand"):
        partition([reading([1.0, 0.0], tokens=[7, 9])], Rule(reference="matched"), ["it"])


def test_matched_positions_stand_in_both_sides():
    corpus = [reading([1.0, 1.0, 0.0]), reading([0.0, 1.0, 0.0])]
    split = partition(corpus, Rule(reference="matched-positions"), ["it"])
    assert places(split.target) == [[0], []]
    assert places(split.reference) == [[], [0]]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 1.0, 2.0])), min_size=1, max_size=6), min_size=2
    ),
    st.sampled_from(["rest", "matched", "matched-positions"]),
    st.sampled_from(["token", "example"]),
)
def test_sides_are_what_brute_force_says(corpus, reference, per):
    readings = [reading([a for _, a in one], tokens=[t for t, _ in one]) for one in corpus]
    sides = {"target": [], "reference": []}
    for i, one in enumerate(corpus):
        for j, (token, a) in enumerate(one):
            fires = a >= 2 if per == "token" else any(b >= 2 for _, b in one)
            sides["target" if fires else "reference"].append((i, j, token))
    key = {"rest": lambda _: 0, "matched": lambda at: at[2], "matched-positions": lambda at: at[1]}[reference]
    keys = {side: {key(at) for at in places} for side, places in sides.items()}
    shared = keys["target"] & keys["reference"]
    expected = {side: {at[:2] for at in places if key(at) in shared} for side, places in sides.items()}
    rule = Rule(per, threshold=2.0, reference=reference)
    if not expected["target"]:
        with pytest.raises(ValueError, match="it fires"):
            partition(readings, rule, ["it"])
        return
    split = partition(readings, rule, ["it"])
    found = {side: {(i, j) for i, at in enumerate(places(masks)) for j in at} for side, masks in split.sides.items()}
    assert found == expected


def test_a_cap_draws_tokens_by_its_seed():
    corpus = [reading([1.0] * 50 + [0.0] * 30) for _ in range(3)]
    whole = partition(corpus, Rule(), ["it"])
    capped = [partition(corpus, Rule(max_tokens=40, seed=seed), ["it"]) for seed in (0, 0, 1)]
    assert capped[0].counts == {"target": 40, "reference": 40, "unused": 160}
    assert places(capped[0].target) == places(capped[1].target) != places(capped[2].target)
    for side in ("target", "reference"):
        assert all(not (part & ~all_).any() for part, all_ in zip(capped[0].sides[side], whole.sides[side]))
    assert len([at for at in places(capped[0].target) if at]) == 3  # from all over the corpus, not its beginning
    assert partition(corpus, Rule(max_tokens=10**6), ["it"]).counts == whole.counts


@pytest.mark.parametrize(
    ("rule", "corpus", "says"),
    [
        (Rule(), [reading([0.0, 0.0])], "none of the 2 tokens that count: its largest activation is 0: it is dead, or"),
        (Rule(threshold=5.0), [reading([2.0])], "its largest activation is 2, below the threshold of 5"),
        (Rule(), [reading([1.0, 2.0])], "fires at all of the 2 tokens that count, so nothing is left"),
        (Rule("example", 0.9), [reading([1.0, 0.0])], "in no example with tokens that count does it fire at a"),
    ],
)
def test_an_empty_side_says_why(rule, corpus, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        partition(corpus, rule, ["it"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(per="word"), "per is one of token, example; got 'word'"),
        (dict(reference="other"), "reference is one of rest, matched, matched-positions; got 'other'"),
        (dict(per="example", share=2), "share is of an example's tokens, 0 to 1; got 2"),
        (dict(share=0.5), "it goes with per='example'; got per='token'"),
        (dict(threshold=-1), "threshold is the least activation that is called firing, 0 or more; got -1"),
        (dict(threshold=float("nan")), "0 or more; got nan"),
        (dict(quantile=1.5), "quantile is of the activations above zero, 0 to 1; got 1.5"),
        (dict(quantile=0.5, threshold=1.0), "either a threshold or a quantile: got 1.0 and 0.5"),
        (dict(max_tokens=0), "max_tokens is how many tokens a side keeps, a whole number from 1; got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        Rule(**options)


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


def test_the_page_shows_what_was_called_the_concept():
    corpus = [reading([0.0, 4.0]), reading([2.0, 0.0])]
    split = partition(corpus, Rule(quantile=0.5), ["a <feature>"], decode=lambda tokens: "<b> tag"[: 3 * len(tokens)])
    page = split.to_html()
    assert "a &lt;feature&gt;" in page
    assert "&lt;b&gt;" in page
    assert "<b> tag" not in page
    assert "activation of 3 or more (the 50 % quantile), token by token" in page
    assert "It fires at 25.00 % of the corpus's tokens" in page
    assert (
        'title="4" style="white-space: pre-wrap; background: rgba(209, 73, 91, 1.00); text-decoration: underline"'
        in page
    )
    assert repr(split) == "Partition(a <feature>, 1 target tokens, 3 reference tokens, 0 unused tokens of 2 examples)"


def test_a_character_of_several_tokens_is_shown_at_its_last():
    text = "a\u00e9\u65e5b"  # 1, 2, 3 and 1 bytes, a token each
    codes = list(text.encode())
    split = partition(
        [reading([1.0] * 7, tokens=codes), reading([0.0])], Rule(), ["it"],
        decode=lambda tokens: bytes(tokens).decode(errors="replace"),
    )  # fmt: skip
    assert split.snippets()[0].pieces == ["a", "", "\u00e9", "", "", "\u65e5", "b"]


@given(st.integers(1, 12), st.integers(0, 5), st.sampled_from(["matched", "matched-positions"]))
def test_a_capped_side_is_matched_still(cap, seed, reference):
    rng = torch.Generator().manual_seed(seed)
    corpus = [
        reading(torch.rand(6, generator=rng).round().tolist(), tokens=torch.randint(9, (6,), generator=rng).tolist())
        for _ in range(12)
    ]
    split = partition(corpus, Rule(reference=reference, max_tokens=cap, seed=seed), ["it"])
    kinds = []
    for masks in (split.target, split.reference):
        assert 0 < sum(int(mask.sum()) for mask in masks) <= cap
        kinds.append({
            int(one.tokens[at]) if reference == "matched" else at
            for one, mask in zip(corpus, masks) for at in mask.nonzero().flatten().tolist()
        })  # fmt: skip
    assert kinds[0] == kinds[1]


def test_one_of_several_features_that_never_fires_is_named():
    both = [Reading(*[torch.arange(2)], *[torch.ones(2, dtype=torch.bool)] * 2, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))]
    with pytest.raises(ValueError, match="two fires nowhere in the corpus: leave it out of the 2"):
        partition(both, Rule(), ["one", "two"])
