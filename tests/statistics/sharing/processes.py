"""Sums statistics in 1, 2 and 4 gloo processes, and in one without a group. Run by `test_shared_summing.py`.

Libraries are imported once: each process is a fork of this one.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from engram_interp import Concept, Statistics, collect, extract, localize
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.conftest import build, token_concept


def plain() -> tuple[nn.Module, Concept]:
    """Convolutions, one of them grouped, and a linear layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(8 * 4 * 4, 10)
    )
    generator = torch.Generator().manual_seed(0)
    target, reference = ([torch.randn(4, 1, 8, 8, generator=generator) for _ in range(n)] for n in (3, 10))
    return model, Concept.from_batches(target, reference)


CASES: dict[str, Callable[[], tuple[nn.Module, Concept]]] = {
    "hooked": lambda: (build("llama"), token_concept(n=43)),
    "bridge": lambda: (bridge_of("gpt", huggingface.make("GPT-2")), token_concept(n=43)),
    "experts": lambda: (bridge_of("mixture", huggingface.make("Mixtral")), token_concept(n=43)),
    "wide": lambda: (build("llama", d_mlp=300), token_concept(n=203)),
    "plain": plain,
}


def moments(statistics: Statistics) -> dict[str, torch.Tensor]:
    """What statistics hold, in tensors by name."""
    found = {}
    for group, of_inputs in statistics.groups.items():
        for name, one in of_inputs.items():
            found[f"{group}/{name}/second"], found[f"{group}/{name}/first"] = one.second.double(), one.first.double()
            found[f"{group}/{name}/counts"] = torch.tensor([one.count, one.offered])
    return found


def made(case: str, store: Path | None) -> dict[str, torch.Tensor]:
    """Statistics, map and engram of a case."""
    model, concept = CASES[case]()
    where = {} if store is None else {"store": store}
    statistics = collect(model, concept, batch_size=5, progress=False, **where)
    wmap, engram = localize(model, statistics, progress=False), extract(model, statistics, progress=False)
    sizes = {f"map/{key}": torch.tensor(value) for key, value in wmap.items()}
    return moments(statistics) | sizes | {f"engram/{key}": one for key, one in engram.items()}


def share(case: str, folder: Path, size: int) -> None:
    """Let so many processes work together, with and without a store."""
    children = []
    for rank in range(size):
        child = os.fork()
        if not child:
            dist.init_process_group("gloo", f"file://{folder}/group-{case}-{size}", rank=rank, world_size=size)
            for store in (None, folder / f"store-{case}-{size}"):
                torch.save(made(case, store), folder / f"{case}-{size}-{rank}-{store is not None}.pt")
            dist.destroy_process_group()
            os._exit(0)
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"{case} in {size} processes: status {status}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    for name in sys.argv[2].split(","):
        torch.save(made(name, None), place / f"{name}-0.pt")
        for n in map(int, sys.argv[3].split(",")):
            share(name, place, n)
