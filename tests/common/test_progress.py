import io
import sys
from types import SimpleNamespace

import pytest
from nbconvert import HTMLExporter

from engram_interp.common import progress
from tests.notebooks import executed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "in_notebook", "asked", "shown"),
    [
        (Terminal, False, None, True),
        (io.StringIO, False, None, False),
        (io.StringIO, True, None, True),
        (Terminal, True, False, False),
        (io.StringIO, False, True, True),
    ],
)
def test_where_a_bar_is_shown(monkeypatch, stream, in_notebook, asked, shown):
    monkeypatch.setattr(sys, "stderr", stream())
    shell = SimpleNamespace(kernel=object()) if in_notebook else None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert progress.is_shown(asked) is shown
    assert progress.in_notebook() is in_notebook


def test_a_bar_goes_through_its_items_and_counts_them(capsys):
    assert list(progress.bar(["a", "b"], True, "looking")) == ["a", "b"]
    assert "looking" in capsys.readouterr().err


def test_in_a_notebook_a_bar_is_an_output_of_its_own_and_nothing_of_it_is_left():
    notebook = executed(
        [
            "from engram_interp.common.progress import bar\nlist(bar(range(300), None, 'the bar'))[-1]",
            "for i in bar(range(3), None, 'stopped'):\n    break\nprint('after')",
        ]
    )
    page, _ = HTMLExporter().from_notebook_node(notebook)
    shown = notebook.cells[0].outputs
    assert [output.output_type for output in shown] == ["display_data", "execute_result"]
    assert "%" not in str(shown)
    assert "stderr" not in str(notebook.cells)
    assert page.count("the bar:") == 0
