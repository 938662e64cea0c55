"""The tables of results in docs/, from the committed JSON: `python -m analyses.result_tables` writes them.

Each stands between `<!-- name -->` and `<!-- end -->`, with what made it below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import pandas as pd

from analyses import results
from analyses.markdown import table
from analyses.paper import published
from analyses.paper.tables import compared, of_combinations, of_costs
from analyses.paper.vision import attributes, autoencoder_classes, forgetting, superclasses, table_2
from analyses.real.forget_facts import of_answers, of_ways
from analyses.real.induction import of_heads
from analyses.real.splits import of_splits
from analyses.real.tofu import of_methods
from analyses.results import Tables
from analyses.studies.attribution import of_attribution
from analyses.studies.compression import of_compression
from analyses.studies.continual import of_continual, of_kept_by_filters
from analyses.studies.formation import of_formation, of_order
from analyses.studies.grafting import of_grafting
from analyses.studies.plans import of_plans
from analyses.studies.positions import of_positions
from analyses.studies.tables import (
    of_authors,
    of_calibration,
    of_deletion,
    of_filters,
    of_forgetting,
    of_levels,
    of_localization,
    of_overlap,
)

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


@dataclass(frozen=True)
class Block:
    """A table: how it is made, and from which results."""

    make: Callable[[Tables], str]
    files: tuple[str, ...]

    def text(self) -> str:
        """The table, and what its results were made by."""
        read = [results.read(HERE / f"{name}.json") for name in self.files]
        names = dict.fromkeys(name for tables in read for name in tables)
        tables = {name: pd.concat([one[name] for one in read if name in one], ignore_index=True) for name in names}
        return f"{self.make(tables)}\n\n{' '.join(source(name) for name in self.files)}"


def of_scale(tables: Tables) -> str:
    """What `python -m benchmarks.scale --json` recorded, a row for each measurement."""
    rows = []
    for row in tables["rows"].to_dict("records"):
        found = f"{row['value']:.1f} {row['unit']}" if row["unit"] == "s" else f"{row['value']:.0f} {row['unit']}"
        rows.append([row["on"], row["what"], found.strip(), f"{row['ratio']:.2f} x {row['over']}"])
    return table(["on", "what", "found", "ratio"], rows)


def of_speed(tables: Tables) -> str:
    """What `python -m benchmarks --json` recorded, a row for each measurement."""
    rows = []
    for row in tables["rows"].to_dict("records"):
        takes = f"{row['value']:.0f} MB" if row["unit"] == "MB" else f"{row['value']:.1f} s"
        rows.append([row["on"], row["what"], takes, f"{row['ratio']:.2f} x {row['over']}"])
    return table(["on", "what", "takes", "ratio"], rows)


TOFU = tuple(f"paper/tofu_{name}" for name in ("closed_form", "filters", "naive_delta", "gradient"))
TOFU_OF_SMOLLM = tuple(f"real/tofu_{name}" for name in ("closed_form", "layer_types", "naive_delta", "gradient"))
BLOCKS = {
    "grafting": Block(of_grafting, ("studies/grafting",)),
    "continual": Block(of_continual, ("studies/continual",)),
    "continual_filters": Block(of_kept_by_filters, ("studies/continual",)),
    "formation": Block(of_formation, ("studies/formation",)),
    "formation_order": Block(of_order, ("studies/formation",)),
    "table_3": Block(partial(compared, paper=published.TABLE_3, methods=published.TABLE_3), ("paper/table_3_methods",)),
    "table_4": Block(partial(compared, paper=published.TABLE_3), ("paper/table_4_closed_form",)),
    "table_7": Block(of_costs, ("paper/table_7_cost", "paper/table_3_methods")),
    "table_8": Block(partial(compared, paper=published.TABLE_8), ("paper/table_8_layer_types",)),
    "table_9": Block(partial(compared, paper=published.TABLE_9), ("paper/table_9_instantiation",)),
    "figure_18": Block(of_combinations, ("paper/figure_18_combinations",)),
    "tofu": Block(partial(compared, paper=published.TABLE_3), TOFU),
    "positions": Block(of_positions, ("studies/positions",)),
    "facts": Block(of_ways, ("real/forget_facts",)),
    "answers": Block(of_answers, ("real/forget_facts",)),
    "tofu_smollm": Block(of_methods, TOFU_OF_SMOLLM),
    "induction": Block(of_heads, ("real/induction",)),
    "splits": Block(of_splits, ("real/splits",)),
    "attribution": Block(of_attribution, ("studies/attribution",)),
    "localization": Block(of_localization, ("studies/localization/testbed",)),
    "localization_gpt2": Block(of_localization, ("studies/localization/gpt2",)),
    "localization_tofu": Block(of_localization, ("studies/localization/tofu",)),
    "localization_smollm": Block(of_localization, ("studies/localization/smollm",)),
    "reliance_smollm": Block(of_localization, ("studies/localization/reliance_smollm",)),
    "reliance_testbed": Block(of_localization, ("studies/localization/reliance_testbed",)),
    "localization_levels": Block(of_levels, ("studies/localization/levels",)),
    "localization_calibration": Block(of_calibration, ("studies/localization/calibration",)),
    "localization_forgetting": Block(of_forgetting, ("studies/localization/forgetting",)),
    "localization_deletion": Block(of_deletion, ("studies/localization/deletion",)),
    "vision_mlp": Block(forgetting.text, ("paper/vision/mlp_classes",)),
    "vision_resnet": Block(forgetting.text, ("paper/vision/resnet_classes",)),
    "vision_vit": Block(forgetting.text, ("paper/vision/vit_groups",)),
    "vision_table_2": Block(table_2.text, ("paper/vision/table_2",)),
    "vision_superclasses": Block(superclasses.text, ("paper/vision/superclasses",)),
    "vision_autoencoder": Block(autoencoder_classes.text, ("paper/vision/autoencoder_classes",)),
    "vision_attributes": Block(attributes.text, ("paper/vision/attributes",)),
    "overlap": Block(of_overlap, ("studies/overlap",)),
    "filters": Block(of_filters, ("studies/filter_frontier",)),
    "sae": Block(of_authors, ("studies/sae_partition",)),
    "speed": Block(of_speed, ("../benchmarks/record",)),
    "scale": Block(of_scale, ("../benchmarks/scale",)),
    "plans": Block(of_plans, ("studies/plans",)),
    "compression": Block(of_compression, ("studies/compression",)),
}


def source(name: str) -> str:
    """What made a file, where, and in what time."""
    file = HERE / f"{name}.json"
    made = results.made_with(file)
    return f"`{file.name}`: `{made.get('script', file.with_suffix('.py').name)}`, {time_of(made)}."


def time_of(made: dict[str, object]) -> str:
    """Minutes or seconds, and the machine, if they were recorded."""
    if "seconds" not in made:
        return "time not recorded"
    seconds = float(str(made["seconds"]))
    time = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
    return f"{time} ({made['machine']})"


def pages() -> list[Path]:
    """The pages of docs/, in order."""
    return sorted(DOCS.glob("*.md"))


def rendered(text: str) -> str:
    """A page with its tables as the results have them."""
    for name, block in BLOCKS.items():
        before, start, rest = text.partition(f"<!-- {name} -->")
        if start:
            _, end, after = rest.partition("<!-- end -->")
            text = f"{before}{start}\n\n{block.text()}\n\n{end}{after}"
    return text


@click.command()
def main() -> None:
    """Write the tables of docs/ from the committed results."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if rendered(text) != text:
            page.write_text(rendered(text), encoding="utf-8")


if __name__ == "__main__":
    main()
