import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engram_interp.sae.partition import partition
from engram_interp.sae.rule import Reading, Rule, thresholds
from tests.sae.readings import places, reading


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


def test_whole_examples_fire_by_their_prompts_too():
    # A prompt of two tokens that fires, and an answer that does not; then an example that is silent.
    pair = reading([0.0, 3.0, 0.0, 0.0], counts=[False, False, True, True])
    silent = reading([0.0, 0.0])
    split = partition([pair, silent], Rule(per="example"), ["it"])
    assert places(split.target) == [[2, 3], []]
    assert places(split.reference) == [[], [0, 1]]
    assert split.to_frame()["largest_activation"].tolist() == [3.0, 0.0]  # of the text that decided
    with pytest.raises(ValueError, match="none of the 4 tokens.*per='example'"):
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
    with pytest.raises(ValueError, match="it .*token.*threshold.*reference='rest'"):
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
    rule = Rule(per=per, threshold=2.0, reference=reference)
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
        (Rule(), [reading([0.0, 0.0])], "none of the 2 tokens.*activation is 0.*dead"),
        (Rule(threshold=5.0), [reading([2.0])], "activation is 2,.*threshold of 5"),
        (Rule(), [reading([1.0, 2.0])], "all of the 2 tokens.*reference"),
        (
            Rule(per="example", share=0.9),
            [reading([1.0, 0.0])],
            r"share of 0\.9",
        ),
    ],
)
def test_an_empty_side_says_why(rule, corpus, says):
    with pytest.raises(ValueError, match=says):
        partition(corpus, rule, ["it"])


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
        'title="4" style="white-space: pre-wrap; background: rgba(209, 73, 91, 0.60); text-decoration: underline"'
        in page
    )
    assert repr(split) == "Partition(a <feature>, 1 target tokens, 3 reference tokens, 0 unused tokens of 2 examples)"


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
    with pytest.raises(ValueError, match="^two fires nowhere.* 2$"):
        partition(both, Rule(), ["one", "two"])
