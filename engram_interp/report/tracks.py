"""A trajectory as one HTML page: when the memory formed, a film of its map, and lines of what is measured."""

from __future__ import annotations

from engram_interp.common.html import template
from engram_interp.learning.tracking.trajectory import Trajectory


def track_page(found: Trajectory, by: str | None, provenance: str) -> str:
    """A trajectory's page.

    Args:
        found: the trajectory.
        by: the quantity of the film. None takes what ranks the maps.
        provenance: what it was made from, shown below the title.

    Raises:
        ValueError: if the trajectory has no such quantity.
    """
    from engram_interp.figures.html import to_html

    quantity = found.map().main if by is None else by
    formation = found.formation()
    table = formation.astype(object).where(formation.notna(), "never")
    figures = [found.plot_answers()] if len(found.answers) else []
    for name in found.concepts:
        figures += [found.animate(quantity, name), found.plot_map(quantity, name), found.plot("fisher", name)]
        figures += [found.plot("cosine", name), found.plot("delta", name)]
    return template("report", "table").render(
        title=f"How the memory of {', '.join(found.concepts)} forms in {found.map().model}",
        provenance=provenance,
        lead=lead(found),
        table=table.to_html(index=False, float_format="{:.3g}".format, border=0),
        caption="When it was learned, and when its engrams were those of the last checkpoint:",
        figures=[to_html(figure, index) for index, figure in enumerate(figures)],
    )


def lead(found: Trajectory) -> str:
    """What was found, in a sentence or two for each concept."""
    said = []
    for row in found.formation().to_dict("records"):
        name = row["concept"]
        learned = "is not learned" if _is_missing(row["learned"]) else f"is learned by step {row['learned']}"
        settled = "" if _is_missing(row["settled"]) else (
            f" From step {row['settled']} on, its engrams are those of the last checkpoint, by a mean cosine of 0.9."
        )  # fmt: skip
        rise = f"{row['accuracy_first']:.0%} to {row['accuracy_last']:.0%} of its answers' tokens are right"
        said.append(f"{name} {learned}: {rise}.{settled}")
    left_out = "; ".join(f"{name} ({why})" for name, why in found.failed.items())
    return " ".join(said) + (f" Left out: {left_out}." if left_out else "")


def _is_missing(value: object) -> bool:
    import pandas as pd

    return bool(pd.isna(value))  # pyright: ignore[reportArgumentType, reportCallIssue]
