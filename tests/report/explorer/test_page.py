"""The page in a real browser: clicks, keys, the slider, exports, links, and text that looks like markup."""

import csv
import io

import pandas as pd
import pytest

from engram_interp import Exploration, explore, localize, testbed
from engram_interp.report.explorer.exploration import Memory
from engram_interp.report.explorer.server import application
from tests.browser import file_address, opened
from tests.report.explorer.conftest import HOSTILE
from tests.serving import served

TOKEN = "token"
O_0 = 'button[aria-label^="W_O, layer 0"]'


@pytest.fixture
def address(found, tmp_path):
    found.to_html(tmp_path / "page.html", explorer=True)
    return file_address(tmp_path / "page.html")


def test_a_click_shows_a_matrix_and_the_address_keeps_it(found, address):
    name, memory = next(iter(found.memories.items()))
    looked = next(iter(memory.matrices))
    with opened(address) as (page, wrong):
        page.click(f"button[data-keys='[\"{looked}\"]']")
        assert page.text_content("#matrix-heading") == looked
        row = memory.wmap.to_frame().set_index("key").loc[looked]
        cells = page.locator("#numbers tbody tr").filter(has_text="wnorm").first.locator("td").all_text_contents()
        assert float(cells[0]) == pytest.approx(row["wnorm"], rel=5e-3)
        page.wait_for_selector("#eigenvalues .main-svg")
        tokens = page.locator(".token").all_text_contents()
        assert tokens[: len(memory.matrices[looked].reads[0].tokens)] == memory.matrices[looked].reads[0].tokens
        link = page.evaluate("location.href")
        assert "matrix=" in link
        assert page.get_attribute(f"button[data-keys='[\"{looked}\"]']", "aria-pressed") == "true"
        assert wrong == []
    with opened(link) as (page, wrong):  # the same page again
        assert page.text_content("#matrix-heading") == looked
        assert page.input_value("#memory") == name
        assert wrong == []


def test_the_slider_shows_answers_at_each_strength(found, address):
    strengths = found.memory().strengths
    with opened(address) as (page, wrong):
        for place, alpha in enumerate(strengths.alphas):
            page.fill("#alpha", str(place))
            shown = page.locator("#answers-target tbody tr td:nth-child(4)").all_text_contents()
            assert shown == [row["said"][place] for row in strengths.answers["target"]]
            assert page.text_content("#alpha-value").startswith(f"{alpha:g}")
            changed = page.locator("#answers-target td.changed").count()
            assert changed == sum(row["said"][place] != row["said"][0] for row in strengths.answers["target"])
        page.focus("#alpha")
        page.keyboard.press("ArrowLeft")
        assert page.text_content("#alpha-value").startswith(f"{strengths.alphas[-2]:g}")
        assert wrong == []


def test_the_map_is_walked_by_keys(address):
    with opened(address) as (page, wrong):
        page.focus(O_0)
        for key, label in (
            ("ArrowRight", "W_O, layer 1"), ("ArrowDown", "W_gate, layer 1"), ("ArrowLeft", "W_gate, layer 0"),
            ("ArrowDown", "W_U"), ("ArrowUp", "W_gate, layer 0"),
        ):  # fmt: skip
            page.keyboard.press(key)
            assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(label)
        page.keyboard.press("Enter")
        assert page.text_content("#matrix-heading") == "blocks.0.mlp.W_gate"
        assert wrong == []


def test_two_memories_are_compared_on_one_scale(found, address):
    one, two = found.memories
    with opened(address) as (page, wrong):
        page.select_option("#quantity", "wnorm")
        page.select_option("#other", two)
        assert page.locator("table.map").count() == 2
        page.wait_for_selector("#scatter .main-svg")
        values = [found.memory(name).wmap["blocks.0.attn.W_O"] for name in (one, two)]
        labels = [box.get_attribute("aria-label") for box in page.locator(O_0).all()]
        assert [float(text.split(": ")[1].split(",")[0]) for text in labels] == pytest.approx(values, rel=5e-3)
        page.locator(O_0).nth(1).click()  # the other memory's matrix
        assert page.input_value("#memory") == two
        assert page.input_value("#other") == one
        assert wrong == []


def test_the_table_and_the_picture_can_be_saved(found, address):
    memory = found.memory()
    with opened(address) as (page, wrong):
        with page.expect_download() as table:
            page.click("#csv")
        rows = list(csv.DictReader(io.StringIO(table.value.path().read_text(encoding="utf-8"))))
        assert [row["key"] for row in rows] == list(memory.wmap)
        assert table.value.suggested_filename == f"map-{next(iter(found.memories)).replace(' ', '_')}.csv"
        with page.expect_download() as picture:
            page.click("#png")
        assert picture.value.path().read_bytes().startswith(b"\x89PNG")
        assert wrong == []


def test_the_table_holds_nulls_and_p_values(full, concepts, tmp_path):
    wmap_options = {"null": "resampled", "draws": 19, "components": "gate", "layers": [0, 1], "progress": False}
    found = explore(full, concepts[0], n_matrices=0, alphas=[4], **wmap_options)
    frame = localize(full, concepts[0], **wmap_options).to_frame()
    found.to_html(tmp_path / "page.html")
    with opened(file_address(tmp_path / "page.html")) as (page, wrong):
        with page.expect_download() as table:
            page.click("#csv")
        saved = pd.read_csv(table.value.path())
        assert {"p_value", "null_low", "null_high", "fisher_p_value"} <= set(saved)
        for column in set(saved) - {"memory", "key"}:
            assert saved[column].tolist() == pytest.approx(frame[column].tolist())
        assert wrong == []


def test_right_answers_have_a_tick_and_changed_ones_are_bold(found, address):
    strengths = found.memory().strengths
    rows = strengths.answers["target"]
    with opened(address) as (page, wrong):
        page.focus("#alpha")
        page.keyboard.press("End")
        cells = "#answers-target tbody td:nth-child"
        assert page.locator(f"{cells}(3).right").count() == sum(row["said"][0] == row["truth"] for row in rows) > 0
        assert page.locator(f"{cells}(4).right").count() == sum(row["said"][-1] == row["truth"] for row in rows)
        assert page.locator(f"{cells}(4).changed").count() == sum(row["said"][-1] != row["said"][0] for row in rows) > 0
        assert wrong == []


def test_a_server_looks_into_what_was_not_looked_into(found):
    name, memory = next(iter(found.memories.items()))
    key = next(key for key in memory.wmap if key not in memory.matrices)
    with served(application(found, TOKEN)) as home, opened(f"{home}/?token={TOKEN}") as (page, wrong):
        page.click(f"button[data-keys='[\"{key}\"]']")
        page.wait_for_selector("#eigenvalues .main-svg")
        expected = found.look(name, key)
        assert page.locator(".token").first.text_content() == expected.reads[0].tokens[0]
        assert wrong == []


def test_a_page_alone_says_what_it_lacks(found, address):
    memory = found.memory()
    key = next(key for key in memory.wmap if key not in memory.matrices)
    with opened(address) as (page, wrong):
        page.click(f"button[data-keys='[\"{key}\"]']")
        assert "was not computed" in page.text_content("#inside")
        assert wrong == []


def test_markup_in_a_users_text_stays_text(hostile, tmp_path):
    hostile.to_html(tmp_path / "page.html")
    with opened(file_address(tmp_path / "page.html")) as (page, wrong):
        key = next(iter(hostile.memory().matrices))
        page.click(f"button[data-keys='[\"{key}\"]']")
        page.select_option("#other", index=1)
        page.wait_for_selector("#eigenvalues .main-svg")
        assert page.locator(".token").first.text_content() == HOSTILE
        assert page.locator("#answers-target td").first.text_content() == HOSTILE
        assert HOSTILE in page.text_content("h1")
        assert page.locator("img").count() == 0
        assert page.evaluate("window.hacked") is None
        assert wrong == []
    table = hostile.to_html(explorer=False)
    assert HOSTILE not in table


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(found, address, width):
    with opened(address, width) as (page, wrong):
        page.click(O_0)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(found, address, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with opened(address, scheme=scheme) as (page, _):
        page.click(f"button[data-keys='[\"{next(iter(found.memory().matrices))}\"]']")
        page.wait_for_selector("#eigenvalues .main-svg")
        faults = axe.Axe().run(page).response["violations"]
        serious = [(one["id"], one["nodes"][0]["html"]) for one in faults if one["impact"] in ("serious", "critical")]
        assert serious == []


def test_memories_of_different_nulls_share_what_both_have(found, full, concepts, tmp_path):
    one, two = found.memories
    analytic = localize(full, concepts[1], null="analytic", components=["O", "gate", "U"], layers=[0, 1])
    siblings = localize(
        full, testbed.authors().concept(one), components=["O", "gate", "U"], layers=[0, 1], draws=19, progress=False
    )
    both = Exploration({one: Memory(siblings), two: Memory(analytic)})
    both.to_html(tmp_path / "both.html")
    with opened(file_address(tmp_path / "both.html")) as (page, wrong):
        options = page.locator("#quantity option").all_text_contents()
        assert "wnorm" in options
        assert "score" not in options
        assert page.locator("table.map .cell").count() == 5
        assert wrong == []


@pytest.mark.parametrize("key", ["toString", "constructor", "nothing"])
def test_a_link_to_what_is_not_there_shows_the_map(address, key):
    with opened(f"{address}#matrix={key}&memory={key}&alpha=x") as (page, wrong):
        assert "Choose a matrix" in page.text_content("#inside")
        assert wrong == []


def test_a_file_without_a_model_needs_no_look(found, tmp_path):
    found.save(tmp_path / "x.safetensors")
    back = Exploration.load(tmp_path / "x.safetensors")
    name = next(iter(back.memories))
    with served(application(back, TOKEN)) as home, opened(f"{home}/?token={TOKEN}") as (page, wrong):
        key = next(key for key in back.memory(name).wmap if key not in back.memory(name).matrices)
        page.click(f"button[data-keys='[\"{key}\"]']")
        assert "was not computed" in page.text_content("#inside")
        assert wrong == []
