"""What users give that is nearly right, as they give it: in a Python of its own, without the type checks of tests.

Each line is taken right, or refused by an error that says what was given in one sentence.
"""

import json
import subprocess
import sys

import pytest

SETUP = """
import json, sys
import numpy as np, torch
import engram_interp as ei
model, corpus = ei.testbed.load("full"), ei.testbed.authors()
author, *others = corpus.forget10[:3]
pairs = [example for other in others for example in other.examples]
concept = ei.Concept(author.examples, pairs, "x")
stats = ei.collect(model, concept, layers=[0])
engram = ei.extract(model, stats)
rows = torch.arange(40).view(4, 10)
def saved(one, path="/".join([__import__("tempfile").mkdtemp(), "it.safetensors"])):
    one.save(path)
    return type(one).load(path)
same = lambda a, b: list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)
"""

RIGHT = [
    "len(ei.Concept((e for e in author.examples), iter(pairs)).target) == 20",
    "ei.Concept(np.array(['a', 'b']), ('c', 'd', 'e')).reference == ['c', 'd', 'e']",
    "len(ei.Concept.from_tokens(rows.numpy(), rows).target) == 4",
    "list(ei.extract(model, stats, components=(name for name in 'QK')).weight_norms) == list(engram)[:2]",
    "same(ei.extract(model, concept, layers=np.int64(0)), engram)",
    "same(ei.extract(model, concept, layers=(i for i in [0])), engram)",
    "same(ei.extract(model, concept, layers=torch.tensor(0)), engram)",
    "same(ei.extract(model, concept, layers=torch.tensor([0]), batch_size=np.int64(64)), engram)",
    "list(ei.localize(model, concept, layers=range(1))) == list(engram.weight_norms)",
    "list(ei.decompose(model, {'a': iter(author.examples), 'b': (e for e in pairs)}, layers=[0])) == ['a', 'b']",
    "same(engram.select('Q', heads=np.int64(1)), engram.select('Q', heads=1))",
    "same(engram.select('Q', heads=torch.tensor([1, 2])), engram.select('Q', heads=[1, 2]))",
    "same(engram.select(keys=iter(['blocks.0.attn.W_Q'])), engram.select('Q'))",
    "[bool(engram.alphas(a)) for a in np.arange(1, 3)] == [True, True]",
    "engram.alphas(torch.tensor(2.0)) == engram.alphas(2) == engram.alphas(np.float16(2))",
    "same(np.float32(2) * engram, 2 * engram) and same(torch.tensor(2.0) * engram, 2 * engram)",
    "same(ei.extract(model, stats, rtol=np.float32(0.5)), ei.extract(model, stats, rtol=0.5))",
    "len(ei.greedy_answers(model, (q for q in ['Who?', 'What?']), max_new_tokens=np.int64(2))) == 2",
    "ei.score(model, {'x': (e for e in pairs)})['x'].n_tokens > 0",
    "ei.choose_alpha(model, engram, concept, keep=np.float32(0.5), rel_tol=np.float64(0.9)).alpha > 0",
]

RIGHT += [
    "saved(ei.extract(model, stats, rtol=np.float32(0.5), ridge=torch.tensor(1.0))).options['rtol'] == 0.5",
]

WRONG = [
    ("ei.Concept(__import__('pandas').DataFrame({'prompt': ['a'], 'answer': ['b']}), ['c'])", "DataFrame"),
    ("ei.Concept(['a'], ['b'], name=5)", "5"),
    ("ei.score(model, concept)", "Concept"),
    ("ei.choose_alpha(model, None, concept)", "NoneType"),
    ("ei.criteria(model, concept, concept)", "Concept"),
    ("ei.extract(model, stats, absorb_bias='no')", "'no'"),
    ("ei.extract(model, stats, components=5)", "5"),
    ("ei.extract(model, stats, components={'Q': 1})", "{'Q': 1}"),
    ("engram.ablate(5)", "5"),
    ("engram + 1", "+"),
    # what is done, and what the message holds: the parameter, or the value
    ("ei.Concept({'a'}, ['b'])", "target"),
    ("ei.Concept(['a'], {'b': 'c'})", "reference"),
    ("ei.Concept(['a'], None)", "reference"),
    ("ei.Concept(['a'], [3])", "reference[0]"),
    ("ei.Concept(('q', 'a'), ['b'])", "pair"),
    ("ei.Concept((x for x in []), ['b'])", "target"),
    ("ei.Concept.from_tokens({1, 2}, rows)", "target"),
    ("ei.Concept.from_tokens({1: 2}, rows)", "target"),
    ("ei.Concept.from_tokens([[1, 2]], rows)", "target"),
    ("ei.Concept.from_tokens(rows > 3, rows)", "torch.bool"),
    ("ei.Concept.from_tokens(rows, rows, target_mask=[True])", "target_mask"),
    ("ei.collect(model, 'x')", "str"),
    ("ei.collect(model, concept, batch_size='8')", "'8'"),
    ("ei.collect(model, concept, batch_size=True)", "batch_size"),
    ("ei.collect(model, concept, batch_size=8.0)", "8.0"),
    ("ei.collect(model, concept, layers='0')", "'0'"),
    ("ei.collect(model, concept, layers=True)", "True"),
    ("ei.collect(model, concept, layers=[0.0])", "0.0"),
    ("ei.collect(model, concept, layers={0: 1})", "layers"),
    ("ei.collect(model, concept, components=[3])", "3"),
    ("ei.collect(model, concept, components=())", "component"),
    ("ei.extract(model, stats, rtol='1e-3')", "'1e-3'"),
    ("ei.extract(model, stats, rtol=True)", "rtol"),
    ("ei.extract(model, stats, ridge='1')", "ridge"),
    ("ei.extract(model, stats, filter='soft')", "'soft'"),
    ("ei.extract(model, stats, filter=lambda x: x * 1e300)", "blocks.0"),
    ("ei.localize(model, concept, null='resampled', draws='99')", "draws"),
    ("ei.localize(model, concept, null='resampled', seed=0.5)", "seed"),
    ("ei.localize(model, concept, null='sibling')", "'sibling'"),
    ("engram.select('Q', heads='1')", "'1'"),
    ("engram.select('Q', heads=True)", "True"),
    ("engram.select('Q', heads=9)", "9"),
    ("engram.alphas('2')", "'2'"),
    ("engram.alphas(True)", "True"),
    ("engram.alphas(None)", "None"),
    ("engram.alphas([1.0])", "[1.0]"),
    ("engram.alphas({'gate': '1'})", "'1'"),
    ("engram.alphas({3: 1.0})", "3"),
    ("engram.ablate(model, 1e39)", "1e+39"),
    ("engram * 'x'", "'x'"),
    ("engram * float('nan')", "nan"),
    ("engram / 0", "0"),
    ("ei.greedy_answers(model, ['Who?'], max_new_tokens=-1)", "-1"),
    ("ei.greedy_answers(model, ['Who?'], max_new_tokens='4')", "'4'"),
    ("ei.greedy_answers(model, 'Who?')", "Who?"),
    ("ei.choose_alpha(model, engram, concept, keep='0.98')", "'0.98'"),
    ("ei.choose_alpha(model, engram, concept, rel_tol=0)", "rel_tol"),
    ("ei.filters.power('2')", "'2'"),
    ("ei.filters.over(True)", "share"),
    ("ei.null_check(model, ['Who?'], size='1')", "'1'"),
    ("ei.decompose(model, [author.examples])", "list"),
    ("ei.score(model, {'x': {'a'}})", "x"),
    ("ei.load_model(3)", "3"),
]

RUN = """
found = []
for line in json.loads(sys.argv[1]):
    try:
        found.append(["gives", repr(eval(line))])
    except Exception as error:
        found.append([type(error).__name__, str(error)])
print("FOUND" + json.dumps(found))
"""


def outcomes(lines: list[str]) -> dict[str, list[str]]:
    program = [sys.executable, "-c", SETUP + RUN, json.dumps(lines)]
    output = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    return dict(zip(lines, json.loads(output.rpartition("FOUND")[2]), strict=True))


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    return outcomes([*RIGHT, *(line for line, _ in WRONG)])


@pytest.mark.parametrize("line", RIGHT)
def test_it_is_taken_right(found, line):
    assert found[line] == ["gives", "True"]


@pytest.mark.parametrize(("line", "says"), WRONG)
def test_it_is_refused_in_a_sentence(found, line, says):
    kind, message = found[line]
    assert kind in ("TypeError", "ValueError", "ZeroDivisionError", "OSError"), message
    assert says in message
    assert "\n" not in message
    assert len(message) < 400
