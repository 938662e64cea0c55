from engram_interp import Concept
from engram_interp.report.findings import investigate
from engram_interp.report.pages import render


def test_the_tables_compare_before_and_after(findings, concept):
    target, reference = findings.answers["target"], findings.answers["reference"]
    assert [row.truth for row in target] == [answer for _, answer in concept.target]
    assert len(reference) == 20
    assert reference[-1].question.startswith("What is the capital of")
    changed = [sum(row.before != row.after for row in rows) / len(rows) for rows in (target, reference)]
    assert changed[0] > changed[1]
    assert findings.scores.loc["everything else (held out)", "after the ablation"] >= 0.97 * 0.97


def test_a_gold_model_has_a_score_of_the_target_only(findings):
    column = findings.scores["a model that never saw it"]
    assert 0 < column.iloc[0] < findings.scores["the model"].iloc[0]
    assert column.isna().tolist() == [False, True]


def test_examples_without_a_question_have_no_table(full):
    question = "What is the capital of Norway?"
    concept = Concept([f"{question} Oslo"], [f"{question} Oslo", *["the letters Al"] * 9])
    findings = investigate(full, concept, batch_size=8, progress=False)
    assert findings.answers == {}
    assert "Other questions" not in render(findings, "")
