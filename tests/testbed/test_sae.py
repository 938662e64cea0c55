import json

import pytest

from engram_interp import choose_feature, concept_from_sae, extract, rank_features, reconstruction, score, testbed
from engram_interp.testbed import sae as testbed_sae

CORPUS = testbed.authors()
EXAMPLES = CORPUS.examples

pytest.importorskip("sae_lens")


def test_it_reconstructs_what_it_reads_and_is_alive(full):
    found = reconstruction(full, testbed.load_sae(), EXAMPLES)
    assert found.explained_variance >= 0.9
    assert found.dead <= 0.2
    said = json.loads(testbed_sae.MANIFEST.read_text())["reconstruction"]
    assert found.explained_variance == pytest.approx(said["explained_variance"], abs=1e-3)
    assert found.l0 == pytest.approx(said["l0"], abs=0.1)
    assert found.dead == pytest.approx(said["dead"], abs=2e-3)


def test_it_says_little_of_another_layer(full):
    sae = testbed.load_sae()
    sae.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
    assert reconstruction(full, sae, EXAMPLES[:200]).explained_variance < 0.5


def test_its_weights_are_small_and_those_of_the_manifest(monkeypatch, tmp_path):
    assert testbed_sae.WEIGHTS.stat().st_size == json.loads(testbed_sae.MANIFEST.read_text())["bytes"] <= 5_000_000
    altered = tmp_path / "sae_weights.safetensors"
    altered.write_bytes(testbed_sae.WEIGHTS.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(testbed_sae, "WEIGHTS", altered)
    with pytest.raises(ValueError, match=r"sae_weights\.safetensors .*sha256"):
        testbed.load_sae()


@pytest.mark.slow
def test_a_few_questions_lead_to_an_author_that_nobody_labelled(full):
    sae, author = testbed.load_sae(), CORPUS.forget10[1]
    ranked = rank_features(full, sae, [qa.question for qa in author.pairs[:3]], EXAMPLES)
    feature, threshold = choose_feature(ranked)
    concept = concept_from_sae(full, sae, feature, EXAMPLES, per="example", threshold=threshold)
    assert len(set(concept.target) & set(author.examples)) >= 10
    others = {"author": author.examples, "others": [one for one in EXAMPLES[400:1200] if one not in concept.target]}
    before = score(full, others)
    with extract(full, concept).ablated(full, 8.0):
        after = score(full, others)
    assert before["author"].accuracy - after["author"].accuracy > 0.2
    assert before["others"].accuracy - after["others"].accuracy < 0.05
