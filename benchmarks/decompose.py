"""What does taking apart 200 authors cost beside extracting one, and what is kept of them?

Prints, on the testbed and the same examples: the seconds of `extract` for one author, of `decompose` for all, and of
the first and the next engram from the decomposition; and the numbers kept, beside those of all second moments and of
all tokens. Read the ratios: seconds depend on the machine.
"""

import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import click

import engram_interp as ei
from engram_interp.models import adapt

Result = TypeVar("Result")


def timed(run: Callable[[], Result]) -> tuple[float, Result]:
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


@click.command()
@click.option("--repeats", default=5, show_default=True)
def main(repeats: int) -> None:
    model, corpus = ei.testbed.load("full"), ei.testbed.authors()
    concepts = {author.name: author.examples for author in corpus.full} | {"world": corpus.world_examples}
    first, second, *_ = concepts
    concept = corpus.concept(first)
    seconds: dict[str, list[float]] = {"extract": [], "decompose": [], "first engram": [], "next engram": []}
    parts = ei.decompose(model, concepts, progress=False)  # warms up
    for _ in range(repeats):
        seconds["extract"].append(timed(lambda: ei.extract(model, concept, progress=False))[0])
        took, parts = timed(lambda: ei.decompose(model, concepts, progress=False))
        seconds["decompose"].append(took)
        for name, author in (("first engram", first), ("next engram", second)):
            seconds[name].append(timed(lambda parts=parts, author=author: parts[author])[0])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        click.echo(f"{name:14s} {value:7.3f} s   {value / medians['extract']:.2f} x extract")
    kept, n_tokens = parts.n_floats, sum(parts.counts.values())
    moments = {name: len(parts) * d * (d + 1) // 2 for name, d in adapt(model).widths(kept).items()}
    tokens = {name: n_tokens * d for name, d in adapt(model).widths(kept).items()}
    within = all(kept[name] <= min(moments[name], tokens[name]) for name in kept)
    click.echo(
        f"kept of {len(parts)} concepts and {n_tokens} tokens: {sum(kept.values()) / 1e6:.1f} million numbers, "
        f"{sum(kept.values()) / sum(moments.values()):.2f} x all moments, "
        f"{sum(kept.values()) / sum(tokens.values()):.2f} x all tokens; "
        f"at no input more than the lesser of the two: {within}"
    )


if __name__ == "__main__":
    main()
