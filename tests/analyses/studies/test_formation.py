import pandas as pd
import pytest

from analyses.studies import formation


def tables() -> dict[str, pd.DataFrame]:
    maps, added, answers = [], [], []
    for arm in (formation.REHEARSED, formation.NOT_REHEARSED):
        for step in formation.SAVED:
            for seed in (0, 1):
                says = {"seed": seed, "arm": arm, "concept": "a", "step": step}
                answers.append({**says, "side": "target", "accuracy": step / formation.ENDED})
                for layer in (0, 1):
                    maps.append({**says, "key": f"k{layer}", "layer": layer, "cosine": 0.5, "score_p_value": 0.04})
                    grown = min(step / formation.FORMED, 1) * (1 if layer else 3)
                    added.append({**says, "key": f"k{layer}", "layer": layer, "fisher": grown, "output_norm": 1.0})
    return {name: pd.DataFrame(rows) for name, rows in (("maps", maps), ("added", added), ("answers", answers))}


def test_the_table_says_answers_stars_and_depth_at_each_step():
    lines = formation.of_formation(tables()).splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == [
        *map(str, formation.SHOWN), str(formation.ENDED), str(formation.ENDED),
    ]  # fmt: skip
    assert lines[-1].split(" | ")[1] == formation.NOT_REHEARSED
    # Layers 0 and 1 get 3 and 1 in size, so 9 and 1 in energy: the mean layer is 0.1.
    assert "| 1.00 (1.00 to 1.00) | 0.50 (0.50 to 0.50) | 100% | 0.10 (0.10 to 0.10) |" in lines[-1]


def test_a_layer_is_half_grown_at_the_first_step_with_half_of_its_size():
    found = formation.half_grown(tables()["added"])
    first = next(step for step in formation.SAVED if step >= formation.FORMED / 2)
    assert set(found["step"]) == {first}
    assert formation.of_order(tables()).splitlines()[2] == f"| 0 | {first} ({first} to {first}) |"


def test_shares_of_layers_add_up_to_one():
    found = formation.shares_by_layer(tables()["added"])
    sums = found[found["step"] > 0].groupby(["seed", "arm", "step"])["share"].sum()
    assert sums.to_numpy() == pytest.approx(1)
    (figure,) = formation.figures(tables())
    assert {trace.name for trace in figure.data} == {"layer 0", "layer 1"}
