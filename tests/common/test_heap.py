"""What is freed goes back to the system: the process holds less after it."""

import sys

import pytest
import torch

from engram_interp.common.heap import give_back_freed

MANY, SIZE = 4000, 2**14


def resident() -> int:
    """Bytes that the process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_holes_between_what_is_kept_are_given_back() -> None:
    blocks = [torch.ones(SIZE) for _ in range(MANY)]
    kept, blocks = blocks[::8], []  # 1/8 of 262 MB stays, scattered among the rest
    before = resident()
    give_back_freed()
    freed = (MANY - len(kept)) * SIZE * 4
    # Nothing of it may be left to give back, where the C library gives back by itself; what is kept stays in any case.
    assert resident() <= before
    assert before - resident() > freed / 2 or before < freed
    assert all(bool((one == 1).all()) for one in kept)


def test_does_nothing_where_there_is_nothing_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    give_back_freed()
