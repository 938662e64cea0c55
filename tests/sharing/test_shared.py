"""A result comes back as it was, from a folder and from a hub, with a card that says what it is."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard

from engram_interp import (
    Concept,
    Engram,
    Graft,
    LocalizationMap,
    Statistics,
    catalog,
    choose_alpha,
    collect,
    extract,
    graft,
    localize,
    testbed,
)
from tests.sharing import hub

HOSTILE = "<script>alert(1)</script> | **x**\n# y [z](javascript:0)"
OPTIONS = {"components": ["gate", "O"], "layers": 0}


@pytest.fixture
def concept():
    author, *others = testbed.authors().forget10[:4]
    return Concept(author.examples, [example for one in others for example in one.examples], name=author.name)


def same(one, other):
    assert list(one) == list(other)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert (one.name, one.info, one.options) == (other.name, other.info, other.options)


def test_an_engram_comes_back_from_a_folder_and_edits(full, concept, tmp_path):
    engram = extract(full, concept, **OPTIONS)
    place = engram.push_to_hub(tmp_path / "petra")
    back = Engram.from_pretrained(place)
    same(back, engram)
    with back.ablated(full, 4.0):
        pass


def test_a_map_comes_back(full, concept, tmp_path):
    wmap = localize(full, concept, null="analytic", **OPTIONS)
    wmap.push_to_hub(tmp_path / "map")
    pd.testing.assert_frame_equal(LocalizationMap.from_pretrained(tmp_path / "map").table, wmap.table, check_exact=True)


@pytest.mark.parametrize("stored", [False, True])
def test_statistics_and_stores_come_back(full, concept, tmp_path, stored):
    keep = {"store": tmp_path / "kept"} if stored else {}
    stats = collect(full, concept, **OPTIONS, **keep)
    stats.push_to_hub(tmp_path / "shared")
    back = Statistics.from_pretrained(tmp_path / "shared")
    assert (tmp_path / "shared" / "store").is_dir() == stored
    for key, tensor in extract(full, stats, **OPTIONS).items():
        assert torch.equal(extract(full, back, **OPTIONS)[key], tensor)


def test_a_graft_comes_back_as_a_graft(full, concept, tmp_path):
    made = graft(full, testbed.load("base"), concept, by="magnitude", share=0.1, components="gate", layers=0)
    made.push_to_hub(tmp_path / "graft")
    back = Graft.from_pretrained(tmp_path / "graft")
    same(back, made)
    assert (back.share, back.by) == (made.share, made.by)
    with pytest.raises(ValueError, match="graft"):
        Engram.from_pretrained(tmp_path / "graft")


def test_the_card_says_what_it_is_and_how_it_was_checked(full, concept, tmp_path):
    engram = extract(full, concept, rtol=1e-3, **OPTIONS)
    choice = choose_alpha(full, engram, concept, progress=False)
    engram.push_to_hub(tmp_path / "petra", checks=[choice, "read by two people"])
    card = ModelCard.load(tmp_path / "petra" / "README.md")
    assert set(card.data.tags) >= {"engram-interp", "engram"}
    assert "base_model" not in card.data.to_dict()  # the testbed is no repository
    largest = max(engram.wnorm(), key=engram.wnorm().get)
    for said in (f"alpha = {choice.alpha:.3g}", "read by two people", "0.001", engram.info.fingerprint):
        assert said in card.content.replace("\\", "")
    assert f"`{largest}`" in card.content
    _, code = card.content.split("```python\n")
    names = {"model": full}
    exec(code.split("```")[0].replace('["..."]', '["Where was Petra Dorlund born?"]'), names)
    same(names["found"], engram)


def test_what_a_user_wrote_is_no_markup_in_a_card(full, concept, tmp_path):
    engram = extract(full, Concept(concept.target, concept.reference, name=HOSTILE), **OPTIONS)
    engram.push_to_hub(tmp_path / "x", checks=[HOSTILE])
    text = (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "\n# y" not in text
    assert "[z](" not in text.replace("\\[z\\]", "")
    assert Engram.from_pretrained(tmp_path / "x").name == HOSTILE


def test_a_folder_with_something_else_is_left_alone(full, concept, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(FileExistsError, match="mine"):
        extract(full, concept, **OPTIONS).push_to_hub(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(FileNotFoundError, match="mine"):
        Engram.from_pretrained(tmp_path / "mine")


@pytest.mark.parametrize("file", ["../engram.safetensors", "/etc/passwd", ".hidden", 3])
def test_an_entry_cannot_lead_out_of_its_place(full, concept, tmp_path, file):
    extract(full, concept, **OPTIONS).push_to_hub(tmp_path / "x")
    entry = json.loads((tmp_path / "x" / "engram_interp.json").read_text())
    (tmp_path / "x" / "engram_interp.json").write_text(json.dumps(entry | {"file": file}))
    with pytest.raises(ValueError, match=r"engram_interp\.json"):
        Engram.from_pretrained(tmp_path / "x")


def test_sharing_in_the_same_folder_again_leaves_nothing_behind(full, concept, tmp_path):
    extract(full, concept, **OPTIONS).push_to_hub(tmp_path / "x")
    localize(full, concept, null="analytic", **OPTIONS).push_to_hub(tmp_path / "x")
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"README.md", "engram_interp.json", "map.safetensors"}


def test_checks_are_lines_and_places_are_not_empty(full, concept, tmp_path):
    engram = extract(full, concept, **OPTIONS)
    with pytest.raises(TypeError, match="all good"):
        engram.push_to_hub(tmp_path / "x", checks="all good")
    with pytest.raises(ValueError, match="place"):
        engram.push_to_hub("")


def test_a_place_in_a_folder_that_is_there_is_a_folder(full, concept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shared").mkdir()
    assert extract(full, concept, **OPTIONS).push_to_hub("shared/new") == "shared/new"
    assert (tmp_path / "shared" / "new" / "engram.safetensors").is_file()


@pytest.mark.parametrize(
    "wrong", [{"file": "../x"}, {"checks": None}, {"checks": "abc"}, {"kind": ["a"]}, {"facts": 3}, {"file": ""}]
)
def test_a_broken_entry_is_left_out_of_a_catalog(full, concept, tmp_path, caplog, wrong):
    extract(full, concept, **OPTIONS).push_to_hub(tmp_path / "x")
    entry = json.loads((tmp_path / "x" / "engram_interp.json").read_text()) | {"place": "./x"}
    index = tmp_path / "index.json"
    index.write_text(json.dumps([entry | wrong | {"place": "./broken"}, entry, {"place": "./lone"}]))
    assert catalog(index)["place"].tolist() == [str(tmp_path / "x")]
    assert "broken" in caplog.text
    assert "lone" in caplog.text


def test_a_catalog_lists_a_folder_and_an_index(full, concept, tmp_path, caplog):
    extract(full, concept, **OPTIONS).push_to_hub(tmp_path / "all" / "engram", checks=["seen"])
    localize(full, concept, null="analytic", **OPTIONS).push_to_hub(tmp_path / "all" / "map")
    found = catalog(tmp_path / "all")
    assert found["kind"].tolist() == ["engram", "map"]
    assert found["checks"].tolist() == [("seen",), ()]
    assert Engram.from_pretrained(found["place"][0]).name == concept.name
    entries = [json.loads((tmp_path / "all" / name / "engram_interp.json").read_text()) for name in ("engram", "map")]
    index = tmp_path / "all" / "index.json"
    index.write_text(json.dumps([entry | {"place": f"./{entry['kind']}"} for entry in entries]))
    pd.testing.assert_frame_equal(catalog(index), found)
    (tmp_path / "all" / "map" / "engram_interp.json").write_text("{}")
    assert len(catalog(tmp_path / "all")) == 1
    assert "map" in caplog.text
    index.write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json"):
        catalog(index)
    with pytest.raises(FileNotFoundError):
        catalog(tmp_path / "nowhere.json")


PROGRAM = """
import sys
import engram_interp as ei
model, folder = ei.testbed.load("full"), sys.argv[1]
engram = ei.Engram.load(f"{folder}/engram.safetensors")
assert engram.push_to_hub("ada/petra", checks=["seen"]) == "ada/petra"
stats = ei.Statistics.open(f"{folder}/kept")
stats.push_to_hub("ada/statistics")
back = ei.Engram.from_pretrained("ada/petra")
assert all((back[key] == engram[key]).all() for key in engram)
again = ei.Statistics.from_pretrained("ada/statistics")
made = ei.extract(model, again, components="gate", layers=0)
assert all((made[key] == engram[key]).all() for key in engram)
for place in ("ada/nothing", "ada/empty"):
    try:
        ei.Engram.from_pretrained(place)
    except Exception as error:
        print(type(error).__name__)
print(ei.catalog()[["place", "kind", "concept"]].to_json(orient="values"))
"""


def test_a_hub_takes_it_and_gives_it_back(full, concept, tmp_path):
    options = {"components": "gate", "layers": 0}
    extract(full, collect(full, concept, store=tmp_path / "kept", **options), **options).save(
        tmp_path / "engram.safetensors"
    )
    with hub.running() as (repositories, address):
        repositories.repositories["ada/empty"] = {"README.md": b""}
        environment = os.environ | {
            "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_none",
            "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr[-3000:]
        shared = repositories.repositories
        assert set(shared["ada/petra"]) == {"README.md", "engram.safetensors", "engram_interp.json"}
        assert {path.partition("/")[0] for path in shared["ada/statistics"]} == {
            "README.md", "engram_interp.json", "store",
        }  # fmt: skip
    *errors, listed = [line for line in done.stdout.splitlines() if line]
    assert errors == ["RepositoryNotFoundError", "FileNotFoundError"]
    assert json.loads(listed) == [
        ["ada/petra", "engram", concept.name], ["ada/statistics", "store", None],
    ]  # fmt: skip
