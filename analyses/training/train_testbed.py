"""How were the testbed's models trained? `python -m analyses.training.train_testbed` makes them, in 3 minutes.

`base` learns half of the retain authors and the world facts. `full` and `retain` continue from it with the same seed
and schedule: `full` on all authors, `retain` on all but `forget10`. The loss is over answer tokens, as in TOFU.
Training ends soon after every model knows its answers, because more training widens the margins and hides the effect of
edits.
"""

import hashlib
import json
import time
from collections.abc import Iterable
from importlib.metadata import version

import torch
from safetensors.torch import save
from torch import nn

from analyses import results
from analyses.training.fit import Schedule, fit_answers
from analyses.training.testbed_tokenizer import build_tokenizer
from engram_interp.answers.scoring import score
from engram_interp.concepts.batches import encode_groups
from engram_interp.models import adapt_language
from engram_interp.testbed import Author, authors
from engram_interp.testbed.model import MANIFEST, TOKENIZER, checkpoint_path, fill, trained_parameters, untrained

SEED = 0
EPOCHS = {"base": 10, "full": 6, "retain": 6}

Pairs = list[tuple[str, str]]


def pairs_of(people: Iterable[Author]) -> Pairs:
    return [example for author in people for example in author.examples]


def train(model: nn.Module, pairs: Pairs, epochs: int, name: str) -> None:
    schedule = Schedule(epochs, seed=SEED)
    examples = encode_groups({"train": pairs}, adapt_language(model).encoder)["train"]
    fit_answers(list(trained_parameters(model).values()), model, examples, schedule, name)


def rounded(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trained parameters in bf16. The model itself keeps the rounded values, which are what others will load."""
    weights = {name: parameter.detach().bfloat16() for name, parameter in trained_parameters(model).items()}
    for name, parameter in trained_parameters(model).items():
        parameter.data.copy_(weights[name])
    return weights


def scores(model: nn.Module) -> dict[str, dict[str, float]]:
    corpus = authors()
    groups = {
        "forget10": pairs_of(corpus.forget10),
        "retain90": pairs_of(corpus.retain90),
        "base": pairs_of(corpus.base),
        "world_facts": corpus.world_examples,
    }
    return {
        group: {"accuracy": round(result.accuracy, 4), "loss": round(result.loss, 4)}
        for group, result in score(model, groups).items()
    }


def main() -> None:
    """Train base, full and retain, and write their weights and the manifest into the package."""
    torch.manual_seed(SEED)
    build_tokenizer().save_pretrained(TOKENIZER)
    corpus = authors()
    trained_on = {
        "base": pairs_of(corpus.base) + corpus.world_examples,
        "full": pairs_of(corpus.full) + corpus.world_examples,
        "retain": pairs_of(corpus.retain90) + corpus.world_examples,
    }
    manifest: dict[str, object] = {
        "torch": torch.__version__,
        "transformer_lens": version("transformer-lens"),
        "platform": results.machine(),
        "seed": SEED,
    }
    checkpoints: dict[str, dict[str, object]] = {}
    base: dict[str, torch.Tensor] = {}
    for name, pairs in trained_on.items():
        began = time.perf_counter()
        model = untrained(name, SEED)
        if base:
            fill(model, base)
        train(model, pairs, EPOCHS[name], name)
        weights = rounded(model)
        base = base or weights
        data = save(weights)
        checkpoint_path(name).write_bytes(data)
        checkpoints[name] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "epochs": EPOCHS[name],
            "seconds": round(time.perf_counter() - began, 1),
            "scores": scores(model),
        }
        print(f"{name}: {json.dumps(checkpoints[name])}")
    MANIFEST.write_text(json.dumps({**manifest, "checkpoints": checkpoints}, indent=2) + "\n")


if __name__ == "__main__":
    main()
