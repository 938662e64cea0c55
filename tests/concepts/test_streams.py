"""Examples that nobody holds are read as they are needed, and found to be what a list of them would be."""

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from engram_interp import Concept, collect, localize, testbed
from engram_interp.concepts.batches import TokenStream, encode_streams, first_tokens, limited, stream_batches
from engram_interp.concepts.concept import TokenExample
from engram_interp.concepts.files import ExamplesIn, read_examples
from engram_interp.concepts.streams import KEPT, Stream, listed_or_stream
from engram_interp.models import adapt_language
from tests.conftest import tokens

MANY = KEPT + 500
QUESTIONS = [("Who wrote it?", "Basil"), ("Where is Lima?", "Peru"), ("When?", "in 1990")]


def some(n: int) -> Iterator[tuple[str, str]]:
    """So many pairs, a few over and over."""
    return (QUESTIONS[i % len(QUESTIONS)] for i in range(n))


class Again:
    """Pairs that can be read again, as `datasets.IterableDataset` gives them."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[dict[str, str]]:
        return ({"prompt": prompt, "answer": answer, "id": "x"} for prompt, answer in some(self.n))


@pytest.fixture(scope="module")
def model():
    return testbed.load("full")


def test_few_examples_of_an_iterator_are_a_list():
    concept = Concept(target=some(3), reference=some(KEPT))
    assert (len(concept.target), len(concept.reference)) == (3, KEPT)
    assert not concept.is_stream


def test_many_are_a_stream_that_says_so():
    concept = Concept(target=some(3), reference=some(MANY), name="x")
    assert concept.is_stream
    assert repr(concept) == "Concept('x', 3 target and a stream reference examples)"
    assert replace(concept, name="y").reference is concept.reference
    assert "stream" in concept._repr_html_()
    with pytest.raises(TypeError, match="reference is a stream.*list"):
        len(concept.reference)
    with pytest.raises(TypeError, match="reference is a stream.*list"):
        concept.reference[0]


@pytest.mark.parametrize("source", [some, Again], ids=["iterator", "iterable"])
def test_a_stream_is_what_a_list_of_its_examples_is(model, source):
    options = {"components": "K", "layers": 0, "progress": False}
    listed = collect(model, Concept([QUESTIONS[0]], list(some(MANY))), **options)
    streamed = collect(model, Concept([QUESTIONS[0]], source(MANY)), **options)
    assert streamed.counts == listed.counts
    for name in listed.inputs:
        mine, others = streamed.groups["reference"][name], listed.groups["reference"][name]
        torch.testing.assert_close(mine.second, others.second, rtol=1e-4, atol=1e-3 * float(others.second.abs().max()))


def test_an_iterator_is_read_once_and_an_iterable_again(model, tmp_path):
    options = {"components": "K", "layers": 0, "progress": False}
    once = Concept([QUESTIONS[0]], some(MANY))
    collect(model, once, **options)
    with pytest.raises(ValueError, match="reference came from an iterator"):
        collect(model, once, **options)
    with pytest.raises(ValueError, match="reference come from an iterator.*2 passes"):
        collect(
            model,
            Concept([QUESTIONS[0]], some(MANY)),
            components=["gate", "Q", "out"],
            layers=0,
            store=tmp_path / "b",
            budget="2MB",
            progress=False,
        )
    again = Concept([QUESTIONS[0]], Again(MANY))
    assert collect(model, again, **options).counts == collect(model, again, store=tmp_path / "a", **options).counts


def test_an_iterable_that_gives_one_iterator_loses_nothing():
    class Shared:
        def __init__(self) -> None:
            self.only = some(MANY)

        def __iter__(self) -> Iterator[tuple[str, str]]:
            return self.only

    stream = Concept(["fine"], Shared()).reference
    assert stream.is_once
    assert len(list(iter(stream))) == MANY


def test_batches_of_an_iterator_are_read_once_with_a_limit_too():
    network = torch.nn.Sequential(torch.nn.Linear(6, 8))
    concept = Concept.from_batches([torch.randn(16, 6)], iter([torch.randn(16, 6) for _ in range(8)]))
    collect(network, concept, max_tokens=32, progress=False)
    with pytest.raises(ValueError, match="read once"):
        collect(network, concept, max_tokens=64, progress=False)
    batches = [torch.randn(16, 6)]
    with pytest.raises(ValueError, match="max_tokens must be 16 or more.*got 4"):
        collect(network, Concept.from_batches(batches, batches), max_tokens=4, progress=False)


def test_an_example_in_a_stream_that_is_none_is_named():
    def bad() -> Iterator[str]:
        yield from ["fine"] * MANY
        yield " "

    stream = Concept(["fine"], bad()).reference
    with pytest.raises(ValueError, match=rf"reference\[{MANY}\]"):
        list(stream)
    with pytest.raises(ValueError, match=r"target\[1\]"):
        Concept((one for one in ["fine", " "]), ["fine"])


def test_a_stream_has_no_siblings(model):
    concept = Concept([QUESTIONS[0]], Again(MANY))
    assert localize(model, concept, components="K", layers=0, progress=False).null == "analytic"


def test_records_of_a_dataset_are_examples():
    concept = Concept([{"question": "Who?", "answer": "Basil"}], [{"text": "Lima is in Peru."}, "plain"])
    assert concept.target == [("Who?", "Basil")]
    assert concept.reference == ["Lima is in Peru.", "plain"]
    with pytest.raises(ValueError, match=r"target\[0\].*prompt"):
        Concept([{"title": "Who?"}], ["plain"])


def test_a_stream_of_a_million_examples_does_not_grow():
    encoder = testbed.load("full")
    from engram_interp.models import adapt_language

    encoded = encode_streams({"reference": Stream(_Tokens(10**6), "reference", lambda one, _: one)},
                             adapt_language(encoder).encoder)  # fmt: skip
    batches = stream_batches(encoded, 256, False, "")
    for _ in range(40):
        next(batches)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(160):
        next(batches)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 2_000_000  # two windows of 1024 examples are 1.3 MB; 40 000 examples would be 25 MB


class _Tokens:
    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[TokenExample]:
        return (TokenExample(torch.tensor([5, i % 50, 7]), torch.ones(3, dtype=torch.bool)) for i in range(self.n))


def test_rows_of_a_memory_mapped_array_are_read_from_it(llama, tmp_path):
    rows = tokens(MANY, 5).numpy()
    np.save(tmp_path / "tokens.npy", rows)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    mask = rows % 3 > 0
    target = tokens(4, 5)
    concept = Concept.from_tokens(target, mapped, reference_mask=mask)
    assert concept.is_stream
    streamed = collect(llama, concept, components="K")
    listed = collect(llama, Concept.from_tokens(target, rows, reference_mask=torch.tensor(mask)), components="K")
    assert streamed.counts == listed.counts == {"target": 20, "reference": int(mask.sum())}
    few = Concept.from_tokens(target, mapped[:10])
    assert len(few.reference) == 10


def test_a_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": p, "answer": a}) for p, a in some(7)) + "\n\n")
    examples = ExamplesIn(path)
    assert list(examples) == list(examples) == read_examples(path)
    (tmp_path / "plain.txt").write_bytes("\ufeffone\r\ntwo\n".encode())
    assert list(ExamplesIn(tmp_path / "plain.txt")) == ["one", "two"]
    (tmp_path / "bad.jsonl").write_text('"fine"\n{"text": 3}\n')
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2"):
        list(ExamplesIn(tmp_path / "bad.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'"fine"\n"caf\xe9"\n')
    with pytest.raises(ValueError, match=r"latin\.jsonl, line 2 is not UTF-8.*0xe9"):
        list(ExamplesIn(tmp_path / "latin.jsonl"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ExamplesIn(tmp_path / "nowhere.jsonl")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match=r"list\.json"):
        ExamplesIn(tmp_path / "list.json")


def test_max_tokens_takes_the_first_examples_of_each_side(model):
    concept = Concept(QUESTIONS[:2], list(some(30)))
    found = collect(model, concept, components="K", layers=0, max_tokens=10, progress=False)
    whole = collect(model, Concept(QUESTIONS[:2], QUESTIONS[:2]), components="K", layers=0, progress=False)
    assert found.counts["reference"] <= 10
    assert found.counts["target"] <= whole.counts["target"]
    encoded = {"reference": [TokenExample(torch.arange(n), torch.ones(n, dtype=torch.bool)) for n in (3, 4, 5, 2)]}
    assert [len(one.tokens) for one in limited(encoded, 8)["reference"]] == [3, 4]  # 3 + 4 + 5 exceeds 8
    with pytest.raises(ValueError, match="max_tokens must be 3.*got 2"):
        limited(encoded, 2)
    assert limited(encoded, None) == encoded


def test_max_tokens_ends_a_stream(model):
    concept = Concept([QUESTIONS[0]], Again(10**9))  # nobody reads all of it
    found = collect(model, concept, components="K", layers=0, max_tokens=2000, progress=False)
    assert 1990 < found.counts["reference"] <= 2000


def test_max_tokens_counts_pictures(llama):
    del llama
    network = torch.nn.Sequential(torch.nn.Linear(4, 3))
    batches = [torch.randn(10, 4) for _ in range(5)]
    found = collect(network, Concept.from_batches(batches[:1], batches[1:]), max_tokens=25, progress=False)
    assert found.counts == {"target": 10, "reference": 20}


def test_a_limited_stream_is_a_stream():
    stream = listed_or_stream(some(MANY), "reference", lambda one, _: one)
    assert isinstance(stream, Stream)
    encoder = adapt_language(testbed.load("full")).encoder
    found = TokenStream(stream, "reference", encoder, None).limited(5)
    assert isinstance(found, TokenStream)
    assert sum(int(one.counts.sum()) for one in found) <= 5
    assert list(first_tokens([], 5)) == []
