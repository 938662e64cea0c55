"""How does a figure show itself? In any notebook, in a list of figures too, and in the pages that nbconvert makes."""

from __future__ import annotations

import json
import uuid
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from engram_interp.common.progress import in_notebook

MIMETYPE = "application/vnd.plotly.v1+json"
# In a page with require.js, plotly would register itself there and not in the window.
_SCRIPT = """<script>
window._define = window.define; window.define = undefined;
{plotly}
window.define = window._define;
</script>"""
_DRAWN = r"""<div id="{id}" style="height: {height}px"></div>
<script>
(() => {{
  const figure = {figure};
  const config = {{responsive: true, displaylogo: false}};
  const {{data, layout, frames}} = figure;
  {title_lines}
  const lines = titleLines(layout.title?.text ?? "", document.getElementById("{id}").clientWidth);
  if (layout.title?.text) layout.title.text = lines.join("<br>");
  if (layout.margin?.t) layout.margin.t = Math.max(layout.margin.t, 60 + 22 * lines.length);
  const draw = () => window.Plotly.newPlot("{id}", {{data, layout, frames, config}});
  if (window.Plotly) return draw();
  const script = document.createElement("script");
  script.src = "https://cdn.plot.ly/plotly-{version}.min.js";
  script.onload = draw;
  document.head.appendChild(script);
}})();
</script>"""


def title_script() -> str:
    """The function that breaks titles into lines, which the documentation site uses too."""
    return files("engram_interp.figures").joinpath("title.js").read_text(encoding="utf-8")


class Figure(go.Figure):
    """A plotly figure that shows itself in any notebook, and in the pages that nbconvert makes from notebooks.

    Plotly's own figure gives a notebook only numbers, which an extension has to draw. This one gives HTML as well. The
    first figure of a session brings plotly's script. The others find it in the page, or load it from the web.
    """

    _script_is_shown = False

    def __repr__(self) -> str:
        return f"Figure({self._name()!r})"

    @property
    def _shown(self) -> Any:
        return self.layout

    def _name(self) -> str:
        return str(self._shown.title.text or "").replace("<br>", " ")

    def _ipython_display_(self) -> None:
        raise NotImplementedError("IPython then asks for _repr_mimebundle_")

    def _repr_mimebundle_(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {MIMETYPE: json.loads(str(self.to_json())), "text/html": self._repr_html_(), "text/plain": repr(self)}

    def _repr_html_(self) -> str:
        script = "" if Figure._script_is_shown else _SCRIPT.format(plotly=get_plotlyjs())
        Figure._script_is_shown = True
        # The content must not end the script that holds it.
        content = str(self.to_json()).replace("<", "\\u003c")
        return script + _DRAWN.format(
            id=f"figure-{uuid.uuid4()}",
            height=self._shown.height or 450,
            figure=content,
            title_lines=title_script(),
            version=get_plotlyjs_version(),
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """In a list or tuple IPython asks for text only, so the figure shows itself next to its name."""
        printer.text(repr(self))
        if in_notebook() and not cycle and len(getattr(printer, "stack", ())) > 1:
            from IPython.display import display  # pyright: ignore[reportMissingImports]

            display(self)
