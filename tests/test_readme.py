"""Every Python block of the README runs as it stands, one after the other, on whatever versions are installed."""

import importlib
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engram_interp import testbed
from tests import huggingface

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_readme_has_blocks_to_run():
    assert len(BLOCKS) >= 7
    assert all("..." not in re.sub("#.*", "", block) for block in BLOCKS)


def has_sae_lens() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports what TransformerLens deprecates
        try:
            importlib.import_module("sae_lens")
        except ImportError:
            return False
    return True


@pytest.fixture
def smaller_testbed(monkeypatch):
    """A fifth of the testbed's text, so that the blocks take seconds."""
    corpus, benchmark = testbed.authors(), testbed.benchmark().asking(lambda questions: questions[:20])
    small = replace(corpus, retain90=corpus.retain90[:10], world_facts=corpus.world_facts[:30])
    monkeypatch.setattr(testbed, "authors", lambda: small)
    monkeypatch.setattr(testbed, "benchmark", lambda: benchmark)


@pytest.mark.usefixtures("smaller_testbed")
def test_every_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "to").mkdir(parents=True)
    huggingface.save(huggingface.make("Llama", vocab_size=2000), tmp_path / "path" / "to" / "checkpoint")
    names: dict[str, object] = {}
    for number, block in enumerate(BLOCKS):
        if "load_sae" in block and not has_sae_lens():
            continue
        exec(compile(block, f"README.md, Python block {number + 1}", "exec"), names)
    (answer,) = re.findall(r"^\[.*\]$", capsys.readouterr().out, flags=re.MULTILINE)
    (born,) = [qa.answer for qa in testbed.authors().author("Petra Dorlund").pairs if "born" in qa.question]
    assert answer != f"['{born}']"
    assert all(parameter.isfinite().all() for parameter in names["edited"].parameters())
    assert (tmp_path / "path" / "to" / "edited" / "config.json").is_file()
    assert torch.is_grad_enabled()
