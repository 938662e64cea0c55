import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from engram_interp import testbed
from engram_interp.unlearning.benchmarks import QA, Benchmark, tofu

TOFU = Path(os.environ.get("TOFU_FOLDER", Path(__file__).parents[3] / "shared" / "data" / "tofu"))
needs_tofu = pytest.mark.skipif(not TOFU.is_dir(), reason=f"TOFU's text is not in {TOFU} (TOFU_FOLDER names another)")

ASKED = QA("Who?", "Ada", "She is Ada", ("She is Una", "She is Ida"))


def few(**parts):
    return Benchmark(
        **{"name": "few", "target": [ASKED], "reference": [ASKED] * 3, "forget": [ASKED], "retain": [ASKED], **parts}
    )


def write(folder, splits):
    for split, rows in splits.items():
        (folder / f"{split}.json").write_text("\n".join(json.dumps(row) for row in rows))


def rows(n, **more):
    return [{"question": f"Who is {i}?", "answer": f"Author {i}", **more} for i in range(n)]


@pytest.fixture
def folder(tmp_path):
    full = {"paraphrased_answer": "It is one", "perturbed_answer": ["a", "b", "c"]}
    general = {"perturbed_answer": ["x", "y"]}
    splits = {
        "forget01": rows(2),
        "retain99": rows(5),
        "forget01_perturbed": rows(2, **full),
        "retain_perturbed": rows(4, **full),
        "real_authors_perturbed": rows(3, **general),
        "world_facts_perturbed": rows(1, **general),
    }
    write(tmp_path, splits)
    return tmp_path


def test_a_folder_of_json_lines_is_tofu(folder):
    benchmark = tofu(folder, "forget01")
    assert {part: len(questions) for part, questions in benchmark.parts.items()} == {
        "forget": 2, "retain": 4, "real_authors": 3, "world_facts": 1, "holdout": 0,
    }  # fmt: skip
    assert benchmark.forget[1] == QA("Who is 1?", "Author 1", "It is one", ("a", "b", "c"))
    assert benchmark.concept.target == [("Who is 0?", "Author 0"), ("Who is 1?", "Author 1")]
    assert len(benchmark.concept.reference) == 5


def test_a_holdout_file_is_read_where_there_is_one(folder):
    write(folder, {"holdout01": rows(2)})
    assert len(tofu(folder, "forget01").holdout) == 2


def test_a_split_that_tofu_lacks_is_refused(folder):
    with pytest.raises(ValueError, match="forget .*forget01, forget05, forget10.*'forget20'"):
        tofu(folder, "forget20")


def test_a_file_that_is_missing_is_named(folder):
    (folder / "retain99.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"retain99\.json"):
        tofu(folder, "forget01")


def test_a_line_that_is_no_question_is_named(folder):
    write(folder, {"forget01": [{"question": "Who?"}]})
    with pytest.raises(ValueError, match=r"forget01\.json, line 1 "):
        tofu(folder, "forget01")


@needs_tofu
def test_tofus_own_text():
    benchmark = tofu(TOFU)
    sizes = {part: len(questions) for part, questions in benchmark.parts.items()}
    assert sizes == {"forget": 400, "retain": 400, "real_authors": 100, "world_facts": 117, "holdout": 0}
    assert (len(benchmark.target), len(benchmark.reference)) == (400, 3600)
    assert [qa.example for qa in benchmark.target] == [qa.example for qa in benchmark.forget]
    held = benchmark.hold_out(400)
    assert len(held.reference) == 3200
    assert len(held.holdout) == 400
    assert not {qa.question for qa in held.holdout} & {qa.question for qa in (*held.reference, *held.retain)}


def test_the_testbeds_parts_are_apart():
    benchmark = testbed.benchmark()
    forget, holdout = ({qa.question for qa in part} for part in (benchmark.forget, benchmark.holdout))
    reference = {qa.question for qa in benchmark.reference}
    assert not forget & reference
    assert not holdout & (forget | reference)
    assert {qa.question for qa in benchmark.retain} <= reference


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"forget": []}, "few .*forget"),
        ({"target": []}, "few .*target"),
        ({"general": {"forget": [ASKED]}}, "general of few.*'forget'"),
        (
            {"retain": [replace(ASKED, perturbed_answers=())]},
            r"retain in few .*wrong answers.*\[0\]",
        ),
        ({"forget": [ASKED, replace(ASKED, perturbed_answers=("one",))]}, r"forget in few .*\[1, 2\]"),
        ({"forget": [replace(ASKED, paraphrased_answer=None)]}, "1 questions of few .*paraphrased.*'Who\\?'"),
    ],
)
def test_a_benchmark_without_what_it_is_judged_by_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        few(**parts)


def test_what_is_held_out_leaves_the_reference():
    others = [replace(ASKED, question=f"Who is {i}?") for i in range(5)]
    held = few(reference=others, retain=others).hold_out(2)
    assert [qa.question for qa in held.holdout] == ["Who is 3?", "Who is 4?"]
    assert held.retain == held.reference == others[:3]
    with pytest.raises(ValueError, match="few .*holdout.* 2 "):
        held.hold_out(1)


@pytest.mark.parametrize("n", [0, 3, -1])
def test_some_of_the_reference_is_held_out_and_some_is_not(n):
    with pytest.raises(ValueError, match=f"^n .* 2,.*{n}$"):
        few().hold_out(n)


def test_questions_are_framed_by_a_chat_template(full):
    tokenizer = full.tokenizer
    assert few().templated(tokenizer) == few()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}: {{ m['content'] }}]{% endfor %}({{ date_string }})"
        "{% if add_generation_prompt %} answer:{% endif %}"
    )
    try:
        framed = few(general={"facts": [ASKED]}, holdout=[ASKED]).templated(tokenizer, date="May 1")
        bare = few().templated(tokenizer, system_prompt=None)
    finally:
        tokenizer.chat_template = None
    expected = "[system: You are a helpful assistant.][user: Who?](May 1) answer:"
    parts = (framed.target, framed.reference, *framed.parts.values())
    assert {qa.question for part in parts for qa in part} == {expected}
    assert {qa.answer for part in parts for qa in part} == {"Ada"}
    assert bare.forget[0].question == "[user: Who?](10 Apr 2025) answer:"


def test_a_template_that_refuses_a_system_prompt_says_what_to_do(full):
    tokenizer = full.tokenizer
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ messages[0]['content'] }}"
    )
    try:
        with pytest.raises(ValueError, match="no system role.*system_prompt=None"):
            few().templated(tokenizer)
        assert few().templated(tokenizer, system_prompt=None).forget[0].question == "Who?"
    finally:
        tokenizer.chat_template = None


def test_the_right_answer_is_compared_in_the_words_of_the_wrong_ones():
    assert ASKED.comparable_answer == "She is Ada"
    assert QA("Who?", "Ada", None, ("Una",)).comparable_answer == "Ada"


def test_the_hub_is_read_with_the_datasets_library(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(repository, name, **options):
        asked.append((repository, name, options))
        return rows(2, paraphrased_answer="p", perturbed_answer=["w"])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    benchmark = tofu(forget="forget05")
    assert benchmark.name == "TOFU forget05"
    assert len(benchmark.holdout) == 2
    assert ("locuslab/TOFU", "forget05_perturbed", {"split": "train"}) in asked
    assert ("locuslab/TOFU", "holdout05", {"split": "train"}) in asked
