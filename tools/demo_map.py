"""`docs/images/demo_map.png`: the map that `engram-interp demo` shows, as README shows it.

It needs Chromium and `pip install kaleido`: `python tools/demo_map.py`.
"""

from pathlib import Path

import engram_interp as ei

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "demo_map.png"
DRAWS = 199


def draw() -> None:
    """Draw the map of the demo's author against random sets of examples."""
    corpus = ei.testbed.authors()
    concept = corpus.concept(corpus.forget10[0].name)
    wmap = ei.localize(ei.testbed.load("full"), concept, null="resampled", draws=DRAWS)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    wmap.plot("fisher_excess").write_image(PICTURE, width=900, scale=1.5)


if __name__ == "__main__":
    draw()
