import json

import pytest
import torch

from engram_interp import Concept, localize, score, testbed
from engram_interp.testbed import classifier as place
from engram_interp.testbed.model import MANIFEST
from engram_interp.testbed.pictures import FAMILIES, KINDS, objects


def test_the_classifier_is_the_one_of_the_manifest_and_as_good():
    model, scores = testbed.load_classifier(), json.loads(MANIFEST.read_text())["classifier"]["scores"]
    assert place.CHECKPOINT.stat().st_size < 1e6
    for split in ("train", "test"):
        x, y = testbed.pictures(split).tensors
        assert float((model(x).argmax(1) == y).double().mean()) == pytest.approx(scores[split], abs=2e-3)
    assert not model.training


def test_a_changed_checkpoint_is_refused(tmp_path, monkeypatch):
    changed = tmp_path / "classifier.safetensors"
    changed.write_bytes(place.CHECKPOINT.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(place, "CHECKPOINT", changed)
    with pytest.raises(ValueError, match="sha256"):
        testbed.load_classifier()


def test_pictures_are_the_same_each_time_and_of_all_kinds():
    one, other = testbed.pictures("test"), testbed.pictures("test")
    assert all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))
    assert one.tensors[1].unique().tolist() == list(range(20))
    assert 0 <= float(one.tensors[0].min()) < float(one.tensors[0].max()) <= 1
    assert KINDS[7] == f"{FAMILIES[1]} split"
    assert objects(3, size=10)[0].shape == (3, 1, 10, 10)
    with pytest.raises(ValueError, match="valid"):
        testbed.pictures("valid")


def test_a_class_is_compared_with_the_nineteen_others():
    model, seen = testbed.load_classifier(), testbed.pictures()
    wmap = localize(model, Concept.from_dataset(seen, "star split"))
    assert wmap.null == "siblings"
    assert wmap.memories == "19 memories (by class)"
    assert score(model, {"star split": Concept.from_dataset(seen, "star split").target})["star split"].accuracy > 0.9
