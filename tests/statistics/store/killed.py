"""Kills a process that fills a store, at random instants, until one lives to its end. Run by `test_filling.py`.

Libraries are imported once: each process that is killed is a fork of this one.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from engram_interp import collect
from tests.conftest import build, token_concept


def fill(folder: Path) -> None:
    """Fill a store slowly: one example a batch, and a checkpoint as often as its cost allows."""
    concept = token_concept(n=160)
    collect(build("llama"), concept, store=folder, budget="30KB", batch_size=1, checkpoint_every=0, progress=False)


def killed(folder: Path, times: int, seed: int) -> dict[str, int]:
    """Kill so many times, and then let it end."""
    chance = random.Random(seed)
    found = {"killed": 0, "checkpoints": 0, "ended": 0}
    while found["killed"] < times:
        child = os.fork()
        if not child:
            fill(folder)
            os._exit(0)
        time.sleep(chance.uniform(0.02, 0.6))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            found["ended"] += 1
            return found
        found["killed"] += 1
        index = folder / "index.json"
        if index.is_file():
            found["checkpoints"] += json.loads(index.read_text())["content"]["progress"] is not None
    fill(folder)
    found["ended"] += 1
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(killed(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))  # noqa: T201
