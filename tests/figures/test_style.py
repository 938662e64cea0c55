import plotly.graph_objects as go

from engram_interp.figures.figure import Figure
from engram_interp.figures.style import TITLE_WIDTH, styled


def test_a_long_title_is_broken_and_has_room():
    short, long = (styled(go.Figure(), "word " * n, 300) for n in (1, 50))
    assert isinstance(long, Figure)
    lines = long.layout.title.text.split("<br>")
    assert len(lines) == 3
    assert max(map(len, lines)) <= TITLE_WIDTH
    assert long.layout.margin.t - short.layout.margin.t == 2 * 22


def test_a_legend_of_several_names_makes_the_figure_higher():
    one, two = (styled(go.Figure([go.Bar(y=[1], name=str(i)) for i in range(n)]), "t", 300) for n in (1, 2))
    assert one.layout.height == 300
    assert two.layout.height > 300
    assert two.layout.margin.b - one.layout.margin.b == two.layout.height - 300
