"""Every option on every function that makes engrams, declared once."""

import inspect
from dataclasses import fields

import pytest
import torch

import engram_interp as ei
from engram_interp.options import Run, Show, Solve, Which, takes
from tests.conftest import build, token_concept, tokens

CONCEPT = token_concept(n=20)
GROUPS = {"A": CONCEPT.target, "rest": CONCEPT.reference}
MAKERS = {
    "extract": lambda model, **options: ei.extract(model, CONCEPT, **options),
    "localize": lambda model, **options: ei.localize(model, CONCEPT, **options),
    "localize against random sets": lambda model, **options: ei.localize(
        model, CONCEPT, null="resampled", draws=19, **options
    ),
    "diagnose": lambda model, **options: ei.diagnose(model, CONCEPT, **options),
    "decompose": lambda model, **options: ei.decompose(model, GROUPS, **options),
    "ablation_study": lambda model, **options: ei.ablation_study(model, CONCEPT, {"all": ei.Only()}, **options),
    "criteria": lambda model, **options: ei.criteria(model, CONCEPT, **options),
}
OPTIONS = {
    "components": ["Q", "gate"],
    "layers": [1],
    "rtol": 1e-2,
    "outliers": 0.2,
    "ridge": 0.5,
    "filter": ei.filters.power(2),
    "absorb_bias": False,
    "delta_from": build("llama", seed=5),
    "batch_size": 7,
    "progress": False,
}


def sizes(made, model):
    """What a result says of the size of every engram."""
    match made:
        case ei.Engram():
            return made.wnorm()
        case ei.Decomposition():
            return made["A"].wnorm()
        case ei.LocalizationMap():
            return dict(made)
        case ei.Diagnosis():
            return made.to_frame().set_index("key")["wnorm"].to_dict()
        case ei.Criteria():
            return made.matrices.set_index("key")["specificity"].to_dict()
        case ei.AblationStudy():
            return made.to_frame().loc["all"].to_dict()


def test_these_are_all_options():
    assert set(OPTIONS) == {one.name for kind in (Which, Solve, Run) for one in fields(kind)}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("option", OPTIONS)
def test_every_maker_takes_every_option(maker, option, llama):
    plain = sizes(MAKERS[maker](llama, progress=False), llama)
    given = sizes(MAKERS[maker](llama, **{"progress": False, option: OPTIONS[option]}), llama)
    if option in ("components", "layers") and maker != "ablation_study":
        assert 0 < len(given) < len(plain)
    elif option in ("batch_size", "progress"):
        assert given == pytest.approx(plain, rel=1e-3, abs=1e-6)
    elif option in ("rtol", "ridge", "filter", "delta_from"):
        assert given != pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize("maker", ["extract", "localize", "diagnose", "decompose", "ablation_study", "criteria"])
def test_help_shows_every_option_with_its_default_and_says_what_it_does(maker):
    function = getattr(ei, maker)
    parameters = inspect.signature(function).parameters
    for kind in (Which, Solve, Run):
        for one in fields(kind):
            assert parameters[one.name].default is one.default
            assert parameters[one.name].kind is inspect.Parameter.KEYWORD_ONLY
            assert f"\n    {one.name}: " in inspect.getdoc(function)
    assert not {"which", "solve", "run"} & parameters.keys()


def test_every_argument_of_a_public_function_is_documented():
    for name in ei.__all__:
        function = getattr(ei, name)
        if inspect.isfunction(function):
            names, text = inspect.signature(function).parameters, inspect.getdoc(function)
            lacking = [one for one in names if f"\n    {one}: " not in text]
            assert not lacking or len(names) <= 2, (name, lacking)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(
    ("option", "wrong"),
    [("rtol", 2.0), ("ridge", -1.0), ("batch_size", 0), ("filter", "soft"), ("absorb_bias", "yes"), ("layers", [9])],
)
def test_a_wrong_option_is_refused_alike_everywhere(maker, option, wrong, llama):
    with pytest.raises((ValueError, TypeError), match=option.rstrip("s")) as refused:
        MAKERS[maker](llama, **{option: wrong})
    shown = str(wrong).strip("[]")
    assert shown in str(refused.value)


@pytest.mark.parametrize("maker", MAKERS)
def test_an_unknown_option_is_named(maker, llama):
    with pytest.raises(TypeError, match="rigde"):
        MAKERS[maker](llama, rigde=1.0)


def test_a_map_of_a_filtered_engram_is_that_of_the_engram(llama):
    g = ei.filters.power(2)
    engram = ei.extract(llama, CONCEPT, filter=g)
    found, diagnosed = ei.localize(llama, CONCEPT, filter=g), ei.diagnose(llama, CONCEPT, filter=g)
    assert dict(found) == pytest.approx(engram.wnorm(), rel=1e-5)
    assert diagnosed.to_frame().set_index("key")["wnorm"].to_dict() == pytest.approx(engram.wnorm(), rel=1e-5)


def test_batch_size_reaches_every_pass(llama, monkeypatch):
    seen = []
    from engram_interp.concepts.batches import Batch

    made = Batch.__init__

    def note(self, tokens, *rest, **named):
        seen.append(len(tokens))
        made(self, tokens, *rest, **named)

    monkeypatch.setattr(Batch, "__init__", note)
    for maker in MAKERS.values():
        maker(llama, batch_size=7, progress=False)
    rows = tokens(9, 6)
    examples = ei.Concept.from_tokens(rows[:5], rows[5:]).target
    ei.values_like(llama, examples, examples, layer=1, batch_size=3)
    assert max(seen) == 7


def test_kinds_add_up():
    @takes(Which, Show)
    def function(x, *, which, show):
        """Do it.

        Args:
            x: a number.

        Raises:
            ValueError: never.
        """
        return x, which, show

    assert function(1, layers=3, progress=False) == (1, Which(layers=3), Show(progress=False))
    before, after = function.__doc__.split("Raises:")
    assert "layers: " in before
    assert "x: a number." in before
    assert "never" in after
    with pytest.raises(TypeError, match="batch_size"):
        function(1, batch_size=3)


def test_a_default_is_a_torch_free_constant():
    assert not any(isinstance(one.default, torch.Tensor) for kind in (Which, Solve, Run) for one in fields(kind))
