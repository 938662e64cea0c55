"""Can a stranger install it? Builds the wheel and the sdist, installs each, and plays the first steps.

    python tools/release_check.py [--tag v0.2.0] [--python python3.10 ...] [--limit 120] [--sizes]

The first steps are those of docs/start.md: install, map, page, with a checkpoint of one's own. `--limit 120` says
how many seconds they may take after everything is downloaded. Environments are empty, and no compiler is at hand.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import click

ROOT = Path(__file__).parents[1]
PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13")
SIZES = re.compile(r"(<!-- sizes -->\n).*?(<!-- /sizes -->)", re.DOTALL)
N_LISTED = 12


def versions(tag: str | None) -> str:
    """The version, if all places that name one agree.

    Raises:
        ClickException: if they do not.
    """
    found = {
        "engram_interp/__init__.py": r'__version__ = "([^"]+)"',
        "CHANGELOG.md": r"^## \[(\d[^\]]*)\]",
        "CITATION.cff": r"^version: (\S+)",
    }
    said = {}
    for name, pattern in found.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        said[name] = re.findall(pattern, text, re.MULTILINE)[0]
    if tag is not None:
        said["the tag"] = tag.removeprefix("v")
    if len(set(said.values())) > 1:
        raise click.ClickException(f"the version differs: {json.dumps(said)}")
    return next(iter(said.values()))


def built(folder: Path) -> tuple[Path, Path]:
    """The wheel and the sdist, in a folder. Their metadata is checked as PyPI does."""
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT))
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "engram_interp").rglob("*") if path.is_file()}
    here = {path for path in here if "__pycache__" not in path}
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("engram_interp/")}
    if here != packed:
        raise click.ClickException(f"the wheel and the package differ in {sorted(here ^ packed)[:5]}")
    return wheel, sdist


def played(python: str, artifact: Path, checkpoint: Path, besides: Sequence[str]) -> tuple[float, Path]:
    """Install an artifact in an empty environment, and go the first steps; the seconds and the environment."""
    home = Path(tempfile.mkdtemp())
    run(python, "-m", "venv", str(home / "venv"))
    inside = home / "venv" / "bin"
    wheels = home / "wheels"
    # The download. The pip of Python 3.10 builds wheels of old packages only so.
    run(str(inside / "pip"), "wheel", "-q", "--use-pep517", "-w", str(wheels), *besides, str(artifact))
    (home / "target.jsonl").write_text('["alpha beta", " gamma"]\n["beta gamma", " delta"]\n' * 4, encoding="utf-8")
    (home / "reference.jsonl").write_text("\n".join(f'"word{i} alpha delta"' for i in range(60)), encoding="utf-8")
    examples = ("--model", str(checkpoint), "--target", "target.jsonl", "--reference", "reference.jsonl")
    began = time.perf_counter()
    run(str(inside / "pip"), "install", "-q", "--no-index", "--find-links", str(wheels), "engram-interp", cwd=home)
    run(str(inside / "engram-interp"), "localize", *examples, "--out", "map.html", cwd=home)
    run(str(inside / "engram-interp"), "explore", *examples, "--n-matrices", "2", "--out", "page.html", cwd=home)
    seconds = time.perf_counter() - began
    for name, text in (("map.html", "Where target sits"), ("page.html", 'id="memory"')):
        if text not in (home / name).read_text(encoding="utf-8"):
            raise click.ClickException(f"{name} does not hold {text!r}")
    shutil.rmtree(wheels)
    return seconds, home


def own_checkpoint(folder: Path) -> Path:
    """A tiny Llama with random weights and a tokenizer of words: somebody's own checkpoint."""
    sys.path.insert(0, str(ROOT))
    from tests import huggingface

    huggingface.save(huggingface.make("Llama", vocab_size=2000), folder)
    return folder


def sizes(environment: Path) -> list[tuple[str, float]]:
    """What was installed, with its megabytes, largest first."""
    program = """
import importlib.metadata as m, json, os
found = {}
for one in m.distributions():
    files = [one.locate_file(path) for path in one.files or ()]
    found[one.metadata["Name"]] = sum(os.path.getsize(path) for path in files if os.path.isfile(path)) / 1e6
print(json.dumps(found))
"""
    text = run(str(environment / "venv" / "bin" / "python"), "-c", program)
    return sorted(json.loads(text).items(), key=lambda one: -one[1])


def write_sizes(found: Sequence[tuple[str, float]]) -> None:
    """Write the table of docs/install.md."""
    rows = [f"| {name} | {size:.0f} MB |" for name, size in found[:N_LISTED]]
    rest = found[N_LISTED:]
    rows += [f"| {len(rest)} more | {sum(size for _, size in rest):.0f} MB |"]
    rows += [f"| **all {len(found)}** | **{sum(size for _, size in found):.0f} MB** |"]
    page = ROOT / "docs" / "install.md"
    text = "| package | installed |\n|---|---|\n" + "\n".join(rows) + "\n\n"
    page.write_text(SIZES.sub(lambda match: f"{match[1]}{text}{match[2]}", page.read_text(encoding="utf-8")))


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command without a compiler at hand, and return what it says.

    Raises:
        ClickException: if it fails; with the last that it said.
    """
    environment = os.environ | {"CC": "/bin/false", "CXX": "/bin/false", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}")
    return done.stdout


@click.command()
@click.option("--tag", help="The tag of the release, which must be the version.")
@click.option(
    "--python", "pythons", multiple=True, help="Which Pythons; those of 3.10 to 3.13 that are here by default."
)
@click.option("--with", "besides", multiple=True, help="What is installed besides, such as a torch without CUDA.")
@click.option("--limit", type=float, help="How many seconds the first steps may take, without downloads.")
@click.option("--sizes", "with_sizes", is_flag=True, help="Write what is installed, with sizes, into docs/install.md.")
@click.option("--out", type=click.Path(path_type=Path), help="A folder to keep what is built, as it was checked.")
@click.option("--only-versions", is_flag=True, help="Compare the versions alone.")
def main(
    tag: str | None,
    pythons: tuple[str, ...],
    besides: tuple[str, ...],
    limit: float | None,
    with_sizes: bool,
    out: Path | None,
    only_versions: bool,
) -> None:
    """Check that this can be released."""
    click.echo(f"version {versions(tag)}")
    if only_versions:
        return
    here = pythons or tuple(name for name in PYTHONS if shutil.which(name) and _starts(name))
    if not here:
        raise click.ClickException(f"none of {', '.join(PYTHONS)} is here")
    with tempfile.TemporaryDirectory() as aside:
        wheel, sdist = built(Path(aside))
        if out is not None:
            shutil.copytree(aside, out, dirs_exist_ok=True)
        click.echo(
            f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB; {sdist.name}: {sdist.stat().st_size / 1e6:.1f} MB"
        )
        checkpoint = own_checkpoint(Path(aside) / "checkpoint")
        for i, python in enumerate(here):
            for artifact in (wheel, sdist) if i == 0 else (wheel,):
                seconds, environment = played(python, artifact, checkpoint, besides)
                click.echo(f"{python}, {artifact.name}: install, map and page in {seconds:.0f} s")
                if limit is not None and seconds > limit:
                    raise click.ClickException(f"the first steps took {seconds:.0f} s; they may take {limit:.0f}")
                if with_sizes and artifact == wheel and i == 0:
                    write_sizes(sizes(environment))
                shutil.rmtree(environment)


def _starts(python: str) -> bool:
    """Whether a Python is more than a name, as a version manager leaves one."""
    return subprocess.run([python, "--version"], capture_output=True).returncode == 0


if __name__ == "__main__":
    main()
