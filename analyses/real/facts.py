"""Which facts does SmolLM2 know? Those of PARAREL that it completes right, token by token, by relation and template.

`python -m analyses.real.facts --data folder` asks for 9135 facts in up to four templates each, in 10 min on two cores.
It writes the places of those that are known; the facts themselves stay in their folder.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click
from jaxtyping import Float
from torch import Tensor, nn

import engram_interp as ei
from engram_interp.answers.scoring import example_scores
from engram_interp.concepts.concept import Example

KNOWN = Path(__file__).with_name("known_facts.json")
N_TEMPLATES = 4
"""Templates of a relation that are asked, at most."""
FEWEST = 20
"""A relation with fewer known facts is no target."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Facts:
    """PARAREL's facts, and which of them a model knows.

    Attributes:
        templates: by relation, sentences with `[X]` for the subject that end in the object, `[Y]`.
        facts: by relation, subjects and objects.
        known: by relation, for each template, the places of the facts that are completed right.
    """

    templates: dict[str, list[str]]
    facts: dict[str, list[Pair]]
    known: dict[str, list[list[int]]]

    @cached_property
    def best(self) -> dict[str, int]:
        """By relation, the template in which most facts are known."""
        return {name: max(range(len(rows)), key=lambda i: len(rows[i])) for name, rows in self.known.items() if rows}

    def pairs(self, relation: str, template: int) -> list[Pair]:
        """The known facts of a relation in a template, as `(prompt, answer)` pairs."""
        asked = self.asked(relation, template)
        return [asked[i] for i in self.known[relation][template]]

    def asked(self, relation: str, template: int) -> list[Pair]:
        """All facts of a relation in a template, known or not."""
        sentence = self.templates[relation][template]
        before = sentence[: sentence.index("[Y]")].strip()
        return [(before.replace("[X]", subject), answer) for subject, answer in self.facts[relation]]

    @property
    def targets(self) -> list[str]:
        """The relations with enough known facts."""
        return [name for name, template in self.best.items() if len(self.known[name][template]) >= FEWEST]


def read(data: Path, known: Path | None = KNOWN) -> Facts:
    """PARAREL from its folder, with what `main` found to be known."""
    rows = [json.loads(line) for line in (data / "facts.jsonl").read_text().splitlines()]
    facts: dict[str, list[Pair]] = {}
    for row in rows:
        facts.setdefault(row["relation"], []).append((row["subject"], row["object"]))
    templates = {
        name: [one for one in some if one.index("[X]") < one.index("[Y]")][:N_TEMPLATES]
        for name, some in json.loads((data / "templates.json").read_text()).items()
    }
    return Facts(templates, facts, {} if known is None else json.loads(known.read_text()))


def ask(model: nn.Module, facts: Facts) -> dict[str, list[list[int]]]:
    """By relation, for each template, the places of the facts of which every answer token is the argmax."""
    return {
        relation: [right(model, facts.asked(relation, i)) for i in range(len(facts.templates[relation]))]
        for relation in facts.facts
    }


def right(model: nn.Module, pairs: Sequence[Pair]) -> list[int]:
    """The places of the pairs that a model completes right."""
    return [i for i, share in enumerate(accuracies(model, pairs).tolist()) if share == 1]


def accuracies(model: nn.Module, pairs: Sequence[Example]) -> Float[Tensor, "example"]:
    """The share of each answer's own tokens that is right, without EOS."""
    return example_scores(model, {"facts": pairs}, eos=False, progress=False)["facts"].accuracy


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="A name on the hub or a folder.")
@click.option("--out", type=click.Path(path_type=Path), default=KNOWN, help="Where to write what is known.")
def main(data: Path, model: str, out: Path) -> None:
    """Ask a model for every fact."""
    facts = read(data, known=None)
    known = ask(ei.load_model(model), facts)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in known.items())
    out.write_text(f"{{\n{lines}\n}}\n")
    for name, rows in known.items():
        click.echo(f"{name}: {[len(row) for row in rows]} of {len(facts.facts[name])}")


if __name__ == "__main__":
    main()
