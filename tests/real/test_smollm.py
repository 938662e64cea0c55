import pytest

import engram_interp as ei
from engram_interp.answers.scoring import score
from engram_interp.models import adapt
from engram_interp.testbed.words import CAPITALS

pytestmark = pytest.mark.real

TEXT = [
    "The history of science is the study of how people came to understand the natural world. It begins long before the "
    "first laboratories, with farmers who watched the seasons and sailors who watched the stars.",
    "A good recipe for bread needs only flour, water, salt and time. The dough is mixed in the evening, rests all night"
    " in a cool place, and is baked in a very hot oven the next morning.",
    "When the train left the station it was already dark. The passengers read their newspapers or looked out of the "
    "window, where the lights of small towns passed by, one after the other.",
    "Most birds that spend the summer in the north fly south in autumn. Some of them cross the sea without a rest, and "
    "find the same garden again in spring.",
]


def capital(country: str) -> tuple[str, str]:
    return f"The capital of {country} is the city of", CAPITALS[country]


def test_it_says_what_the_model_says(smollm):
    answers = ei.greedy_answers(smollm, ["The Eiffel Tower is located in the city of"], max_new_tokens=3)
    assert answers[0].startswith("Paris")
    assert adapt(smollm).info.name == "SmolLM2-135M-Instruct-Q4_1"
    assert smollm.tokenizer.convert_ids_to_tokens(smollm.tokenizer("in 1987").input_ids)[-4:] == list("1987")


def test_bos_is_left_out_as_its_tokenizer_leaves_it_out(smollm):
    assert not smollm.cfg.default_prepend_bos
    without = score(smollm, {"text": TEXT})["text"].loss
    smollm.cfg.default_prepend_bos = True
    try:
        forced = score(smollm, {"text": TEXT})["text"].loss
    finally:
        smollm.cfg.default_prepend_bos = False
    assert without < 3.5
    assert forced > without + 0.1


def test_prompts_of_different_lengths_are_answered_as_each_alone(smollm):
    prompts = [capital(country)[0] for country in ("Peru", "Norway")] + ["Bread is made of flour, water and"]
    together = ei.greedy_answers(smollm, prompts, max_new_tokens=5)
    assert together == [ei.greedy_answers(smollm, [prompt], max_new_tokens=5)[0] for prompt in prompts]


def test_a_short_answer_is_forgotten_where_it_is_produced(smollm):
    # At the same strength, positions that produce the answer take more of it than positions that hold it.
    pairs = [capital(country) for country in ("France", "Japan", "Russia", "Italy", "Peru", "Norway", "Cuba", "Egypt")]
    before = score(smollm, {"pairs": pairs}, eos=False)["pairs"].loss
    lost = {}
    for positions in ("predicting", "answer"):
        concept = ei.Concept(pairs, TEXT, positions=positions, eos=False)
        engram = ei.extract(smollm, concept, layers=range(15, 25), rtol=1e-2, progress=False)
        with engram.ablated(smollm, 1.0):
            lost[positions] = score(smollm, {"pairs": pairs}, eos=False)["pairs"].loss - before
    assert lost["predicting"] > 2 * lost["answer"]
    assert lost["predicting"] > 1
