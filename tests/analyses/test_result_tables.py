import pytest

from analyses import result_tables
from analyses.studies import fisher_reading


@pytest.mark.parametrize("page", result_tables.pages(), ids=lambda page: page.stem)
def test_the_tables_of_a_page_are_the_results(page):
    text = page.read_text(encoding="utf-8")
    assert result_tables.rendered(text) == text


def test_every_table_is_on_one_page_and_no_page_has_another():
    text = "".join(page.read_text(encoding="utf-8") for page in result_tables.pages())
    assert {name: text.count(f"<!-- {name} -->") for name in result_tables.BLOCKS} == dict.fromkeys(
        result_tables.BLOCKS, 1
    )
    assert text.count("<!-- end -->") == len(result_tables.BLOCKS)


def test_a_table_that_differs_from_the_results_is_written_anew():
    (page,) = [page for page in result_tables.pages() if page.name == "maps.md"]
    text = page.read_text(encoding="utf-8")
    assert result_tables.rendered(text.replace("24 of 24", "23 of 24")) == text


def test_the_page_of_the_fisher_reading_is_its_results():
    found = result_tables.results.read(fisher_reading.RESULTS)
    page = fisher_reading.RESULTS.with_suffix(".md").read_text(encoding="utf-8")
    assert fisher_reading.page(found["matrices"], found["steps"]) == page


def test_time_is_told_where_it_was_recorded():
    assert result_tables.time_of({"seconds": 119.4, "machine": "x86_64, 1 threads"}) == "119 s (x86_64, 1 threads)"
    assert result_tables.time_of({"seconds": 840.0, "machine": "a GPU"}) == "14 min (a GPU)"
    assert result_tables.time_of({}) == "time not recorded"
