import plotly.graph_objects as go

from engram_interp.figures.html import to_html


def test_the_first_figure_of_a_page_alone_brings_the_script():
    first, second = (to_html(go.Figure(), index) for index in (0, 1))
    assert len(first) > 1_000_000 > 10_000 > len(second)
    assert 'id="figure-1"' in second
    assert "<html" not in first
