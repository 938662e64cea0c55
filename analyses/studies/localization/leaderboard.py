"""Which method finds memories best, in all models? `python -m analyses.studies.localization.leaderboard`.

With `--plot page.html` it draws a leaderboard for each model.
"""

from pathlib import Path

import click

from analyses import results
from engram_interp.benchmarks import Leaderboard

HERE = Path(__file__).parent
MODELS = {"testbed": "the testbed", "gpt2": "GPT-2's architecture", "tofu": "TOFU's text", "smollm": "SmolLM2"}


@click.command()
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the results, as .html.")
def main(plot: Path | None) -> None:
    """Show the leaderboards of all models."""
    figures = []
    for name, of_model in MODELS.items():
        found = results.read(HERE / f"{name}.json")
        click.echo(f"{of_model}\n{found['summary'].to_string(index=False)}\n")
        board = Leaderboard(found["cases"])
        for figure in (board.plot(), board.plot_places("score")):
            figures.append(figure.update_layout(title_subtitle_text=of_model))
    if plot is not None:
        results.draw(plot, *figures)


if __name__ == "__main__":
    main()
