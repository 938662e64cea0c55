"""Several processes find what one finds, to rounding."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engram_interp import Statistics, localize
from engram_interp.cli import main
from tests.checkout import ENVIRONMENT, ROOT, python
from tests.conftest import build, token_concept


def require_close(folder: Path, case: str, sizes: list[int]) -> None:
    """Check what processes found against what one found without a group."""
    expected = torch.load(folder / f"{case}-0.pt")
    for size in sizes:
        for rank in range(size):
            for store in (False, True):
                found = torch.load(folder / f"{case}-{size}-{rank}-{store}.pt")
                assert set(found) == set(expected)
                for name, value in expected.items():
                    if name.endswith("counts"):
                        assert torch.equal(found[name], value), name
                        continue
                    size_of = float(value.abs().max()) or 1.0
                    assert float((found[name].double() - value.double()).abs().max()) < 1e-9 * size_of, name


def test_two_processes_find_what_one_finds(tmp_path):
    ended = python("-m", "tests.statistics.sharing.processes", str(tmp_path), "hooked,plain", "2")
    assert not ended.returncode, ended.stderr
    for case in ("hooked", "plain"):
        require_close(tmp_path, case, [2])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["hooked", "bridge", "experts", "wide", "plain"])
def test_one_two_and_four_processes_find_what_one_finds(tmp_path, case):
    ended = python("-m", "tests.statistics.sharing.processes", str(tmp_path), case, "1,2,4")
    assert not ended.returncode, ended.stderr
    require_close(tmp_path, case, [1, 2, 4])


@pytest.fixture
def sides(tmp_path) -> list[str]:
    """Two files of examples, as the command line takes them."""
    import json

    from engram_interp import testbed

    author, *others = testbed.authors().forget10[:3]
    for name, some in (("target", [author]), ("reference", others)):
        lines = [json.dumps(example) for one in some for example in one.examples]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return ["--target", str(tmp_path / "target.jsonl"), "--reference", str(tmp_path / "reference.jsonl")]


def torchrun(n: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    launched = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), "-m", "engram_interp"]
    return python(*launched, *arguments)


@pytest.mark.slow
def test_torchrun_collects_and_maps(tmp_path, sides):
    from click.testing import CliRunner

    ended = torchrun(2, "collect", *sides, "--store", str(tmp_path / "two"), "--no-progress")
    assert not ended.returncode, ended.stderr
    assert ended.stdout.count("are in") == 1
    ended = torchrun(2, "localize", "--statistics", str(tmp_path / "two"), "--out", str(tmp_path / "two.csv"))
    assert not ended.returncode, ended.stderr
    alone = CliRunner().invoke(main, ["collect", *sides, "--store", str(tmp_path / "one"), "--no-progress"])
    assert alone.exit_code == 0, alone.output
    from engram_interp import testbed

    model = testbed.load("full")
    one, two = (localize(model, Statistics.open(tmp_path / name)) for name in ("one", "two"))
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-6)
    assert len((tmp_path / "two.csv").read_text().splitlines()) == len(one.to_frame()) + 1
    refused = torchrun(2, "demo", "--out", str(tmp_path / "report.html"))
    assert "one process" in refused.stderr


DYING = """
import os, signal, sys
import torch.distributed as dist
from engram_interp import collect
from engram_interp.statistics.store import filling
from tests.conftest import build, token_concept
rank = int(sys.argv[1])
dist.init_process_group("gloo", f"file://{sys.argv[2]}/group", rank=rank, world_size=2)
filling.LEAST_SHARE = 0
model = build("llama")
if rank:
    runs = []
    def die(*_):
        runs.append(1)
        if len(runs) > 5:
            os.kill(os.getpid(), signal.SIGKILL)
    model.embed.register_forward_hook(die)
collect(model, token_concept(), store=f"{sys.argv[2]}/store", batch_size=4, checkpoint_every=0, progress=False)
"""


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_another_number_goes_on(tmp_path):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", DYING, str(rank), str(tmp_path)], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [one.communicate(timeout=120)[1] for one in running]
    assert running[1].returncode == -signal.SIGKILL
    assert running[0].returncode == 1
    assert "rank 0 of 2 cannot reach the others" in told[0].splitlines()[-1]
    with pytest.raises(ValueError, match="not finished"):
        Statistics.open(tmp_path / "store")
    from engram_interp import collect

    options = {"batch_size": 4, "progress": False}
    found = collect(build("llama"), token_concept(), store=tmp_path / "store", **options)
    expected = collect(build("llama"), token_concept(), **options)
    for group in expected.groups:
        for name in expected.inputs:
            mine, others = found.groups[group][name], expected.groups[group][name]
            assert (mine.count, mine.offered) == (others.count, others.offered)
            torch.testing.assert_close(mine.second, others.second)
