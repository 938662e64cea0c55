"""The gates of the testbed, on the weights that the package ships, and that the method works on them."""

import json

import pytest
import torch
from torch import nn

from engram_interp import Score, choose_alpha, extract, score, testbed
from engram_interp.testbed import model as testbed_model
from tests.conftest import HookedTransformer

CORPUS = testbed.authors()
GROUPS = {
    "forget10": [example for author in CORPUS.forget10 for example in author.examples],
    "retain90": [example for author in CORPUS.retain90 for example in author.examples],
    "holdout": [example for author in CORPUS.holdout for example in author.examples],
    "world": CORPUS.world_examples,
}
# Weights and method are the same on a bridge, so one author shows there that it all goes together.
FORGET_AUTHORS = range(5 if HookedTransformer else 1)


@pytest.fixture(scope="module")
def models(_full) -> dict[str, nn.Module]:
    return {"full": _full, **{name: testbed.load(name) for name in ("base", "retain")}}


@pytest.fixture(scope="module")
def scores(models) -> dict[str, dict[str, Score]]:
    return {name: score(model, GROUPS) for name, model in models.items()}


@pytest.fixture(scope="module")
def by_author(models) -> dict[str, dict[str, Score]]:
    """Every trained author's score by name, and that of the world facts, in the two models that authors are told by."""
    groups = {author.name: author.examples for author in CORPUS.full} | {"world": CORPUS.world_examples}
    return {name: score(models[name], groups) for name in ("full", "retain")}


def together(scores: list[Score]) -> float:
    """The accuracy over all their tokens."""
    return sum(one.accuracy * one.n_tokens for one in scores) / sum(one.n_tokens for one in scores)


def test_full_knows_everyone(scores):
    assert scores["full"]["forget10"].accuracy >= 0.97
    assert scores["full"]["retain90"].accuracy >= 0.97


def test_retain_knows_all_but_the_forgotten(scores):
    assert scores["retain"]["retain90"].accuracy >= 0.97
    assert scores["retain"]["forget10"].accuracy <= scores["full"]["forget10"].accuracy - 0.30


def test_all_three_know_the_world(scores):
    assert min(found["world"].accuracy for found in scores.values()) >= 0.97


def test_full_is_not_trained_far_past_its_answers(scores):
    # A loss of 0.003 a token would hide every edit behind its margins.
    assert scores["full"]["retain90"].loss > 0.02


def test_nobody_knows_the_holdout(scores):
    assert all(found["holdout"].accuracy <= scores["full"]["forget10"].accuracy - 0.30 for found in scores.values())


@pytest.mark.slow
@pytest.mark.parametrize("index", FORGET_AUTHORS)
def test_one_author_is_forgotten_and_that_author_alone(full, by_author, index):
    author = CORPUS.forget10[index]
    concept = CORPUS.concept(author.name)
    others = [other for other in CORPUS.full if other != author]
    groups = {
        "target": author.examples,
        "others": [example for other in others for example in other.examples],
        "world": CORPUS.world_examples,
    }
    unedited, gold = by_author["full"], by_author["retain"][author.name].accuracy
    before = {
        "target": unedited[author.name].accuracy,
        "others": together([unedited[other.name] for other in others]),
        "world": unedited["world"].accuracy,
    }
    engram = extract(full, concept)
    with engram.ablated(full, choose_alpha(full, engram, concept).alpha):
        after = {group: found.accuracy for group, found in score(full, groups).items()}
    assert before["target"] - after["target"] >= 0.8 * (before["target"] - gold)
    assert after["others"] >= 0.97 * before["others"]
    assert after["world"] >= 0.97 * before["world"]


def test_it_is_llama_style_with_every_component(full):
    cfg = full.cfg
    assert (cfg.normalization_type, cfg.gated_mlp, cfg.positional_embedding_type) == ("RMS", True, "rotary")
    assert cfg.n_key_value_heads < cfg.n_heads
    assert not torch.equal(full.embed.W_E, full.unembed.W_U.T)
    gains = [block.ln1.w for block in full.blocks] + [full.ln_final.w]
    assert all(gain.std() > 0.01 for gain in gains)
    assert all(not parameter.any() for name, parameter in full.named_parameters() if ".b_" in name or "._b" in name)


@pytest.mark.parametrize("name", ["base", "full", "retain"])
def test_a_checkpoint_is_small_and_the_one_in_the_manifest(name):
    manifest = json.loads(testbed_model.MANIFEST.read_text())["checkpoints"][name]
    assert testbed_model.checkpoint_path(name).stat().st_size == manifest["bytes"] <= 4_000_000


def test_an_altered_checkpoint_is_refused(monkeypatch, tmp_path):
    altered = tmp_path / "full.safetensors"
    content = bytearray(testbed_model.checkpoint_path("full").read_bytes())
    content[-1] ^= 1
    altered.write_bytes(bytes(content))
    monkeypatch.setattr(testbed_model, "checkpoint_path", lambda name: altered)
    with pytest.raises(ValueError, match=r"full\.safetensors .*sha256"):
        testbed.load("full")


def test_weights_of_another_architecture_are_refused(full):
    weights = {name: parameter.detach() for name, parameter in testbed_model.trained_parameters(full).items()}
    weights["blocks.9.attn.W_Q"] = weights.pop("blocks.3.attn.W_Q")
    with pytest.raises(ValueError, match=r"weights.*\['blocks\.3\.attn\.W_Q', 'blocks\.9\.attn\.W_Q'\]"):
        testbed_model.fill(testbed_model.untrained("copy"), weights)


def test_every_word_of_the_corpus_is_known_to_the_tokenizer(full):
    tokenizer = full.tokenizer
    text = [text for author in CORPUS.full + CORPUS.holdout for qa in author.pairs for text in qa.example]
    assert tokenizer.unk_token_id not in tokenizer(" ".join(text), add_special_tokens=False)["input_ids"]
    answer = CORPUS.forget10[0].pairs[0].answer
    assert len(tokenizer(answer, add_special_tokens=False)["input_ids"]) == len(answer.split())
    assert tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"]).strip() == answer
