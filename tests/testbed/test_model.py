"""The gates of the testbed, on the weights that the package ships, and that the method works on them."""

import json

import pytest
import torch

from engram_interp import choose_alpha, extract, score, testbed
from engram_interp.testbed import model as testbed_model
from tests.conftest import HookedTransformer

CORPUS = testbed.authors()
GROUPS = {
    "forget10": [example for author in CORPUS.forget10 for example in author.examples],
    "retain90": [example for author in CORPUS.retain90 for example in author.examples],
    "world": CORPUS.world_examples,
}
# Weights and method are the same on a bridge, so one author shows there that it all goes together.
FORGET_AUTHORS = range(5 if HookedTransformer else 1)


@pytest.fixture(scope="module")
def accuracy() -> dict[str, dict[str, float]]:
    return {
        name: {group: result.accuracy for group, result in score(testbed.load(name), GROUPS).items()}
        for name in ("base", "full", "retain")
    }


def test_full_knows_everyone(accuracy):
    assert accuracy["full"]["forget10"] >= 0.97
    assert accuracy["full"]["retain90"] >= 0.97


def test_retain_knows_all_but_the_forgotten(accuracy):
    assert accuracy["retain"]["retain90"] >= 0.97
    assert accuracy["retain"]["forget10"] <= accuracy["full"]["forget10"] - 0.30


def test_all_three_know_the_world(accuracy):
    assert min(scores["world"] for scores in accuracy.values()) >= 0.97


def test_full_is_not_trained_far_past_its_answers():
    # A loss of 0.003 a token would hide every edit behind its margins.
    assert score(testbed.load("full"), {"retain90": GROUPS["retain90"]})["retain90"].loss > 0.02


def test_nobody_knows_the_holdout(accuracy):
    holdout = {"holdout": [example for author in CORPUS.holdout for example in author.examples]}
    assert score(testbed.load("full"), holdout)["holdout"].accuracy <= accuracy["full"]["forget10"] - 0.30


@pytest.mark.slow
@pytest.mark.parametrize("index", FORGET_AUTHORS)
def test_one_author_is_forgotten_and_that_author_alone(full, index):
    author = CORPUS.forget10[index]
    concept = CORPUS.concept(author.name)
    groups = {
        "target": author.examples,
        "others": [example for other in CORPUS.full if other != author for example in other.examples],
        "world": CORPUS.world_examples,
    }
    gold = score(testbed.load("retain"), {"target": author.examples})["target"].accuracy
    before = score(full, groups)
    engram = extract(full, concept)
    with engram.ablated(full, choose_alpha(full, engram, concept).alpha):
        after = score(full, groups)
    fell = before["target"].accuracy - after["target"].accuracy
    assert fell >= 0.8 * (before["target"].accuracy - gold)
    assert after["others"].accuracy >= 0.97 * before["others"].accuracy
    assert after["world"].accuracy >= 0.97 * before["world"].accuracy


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
    with pytest.raises(ValueError, match=r"full\.safetensors was altered: its sha256 is"):
        testbed.load("full")


def test_weights_of_another_architecture_are_refused(full):
    weights = {name: parameter.detach() for name, parameter in testbed_model.trained_parameters(full).items()}
    weights["blocks.9.attn.W_Q"] = weights.pop("blocks.3.attn.W_Q")
    with pytest.raises(ValueError, match=r"differ in \['blocks\.3\.attn\.W_Q', 'blocks\.9\.attn\.W_Q'\]"):
        testbed_model.fill(testbed_model.untrained("copy"), weights)


def test_every_word_of_the_corpus_is_known_to_the_tokenizer(full):
    tokenizer = full.tokenizer
    text = [text for author in CORPUS.full + CORPUS.holdout for qa in author.pairs for text in qa.example]
    assert tokenizer.unk_token_id not in tokenizer(" ".join(text), add_special_tokens=False)["input_ids"]
    answer = CORPUS.forget10[0].pairs[0].answer
    assert len(tokenizer(answer, add_special_tokens=False)["input_ids"]) == len(answer.split())
    assert tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"]).strip() == answer
