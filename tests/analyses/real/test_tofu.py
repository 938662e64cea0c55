"""Adapters and tables on a random Llama with two layers, which learns a few answers."""

import hashlib
import json

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from analyses.real import tofu, tofu_models
from analyses.real.tofu_models import ADAPTERS, NAMES, finetuned
from engram_interp.unlearning.benchmarks import QA, Benchmark

N = 8
WORDS = ["north", "south", "east", "west", "far", "near", "deep", "high"]


def questions(name):
    return [
        QA(f"Where was {name} {WORDS[i]} born ?", f"in {answer}", f"from {answer}", ("in nowhere", "in Ada"))
        for i in range(N)
        for answer in [WORDS[(3 * i + len(name)) % N]]
    ]


def benchmark(data):
    """Four authors: one to forget, one to keep, one that is general, one that nobody learns."""
    ada, basil, homer, cleo = (questions(name) for name in ("Ada", "Basil", "Homer", "Cleo"))
    return Benchmark("small", ada, basil, ada, basil, {"real_authors": homer}, cleo)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a model, and one with its adapters."""
    folder = tmp_path_factory.mktemp("tofu")
    words = [
        "<pad>",
        "<eos>",
        "<unk>",
        *"Where was born ? in from nowhere".split(),
        *"Ada Basil Homer Cleo".split(),
        *WORDS,
    ]
    tokens = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", eos_token="<eos>")
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes)).save_pretrained(folder / "model")
    (folder / "idontknow.jsonl").write_text("far\nnear\n")
    patch = pytest.MonkeyPatch()
    patch.setattr(tofu_models, "some_authors", benchmark)
    asked = [
        "--data",
        str(folder),
        "--model",
        str(folder / "model"),
        "--out",
        str(folder / "adapters"),
        "--epochs",
        "250",
    ]
    try:
        result = CliRunner().invoke(tofu_models.main, asked)
    finally:
        patch.undo()
    assert result.exit_code == 0, result.output
    return folder


def test_adapters_teach_what_they_were_trained_on(trained):
    manifest = json.loads((trained / "adapters" / "manifest.json").read_text())
    assert set(manifest) == set(NAMES)
    found = {name: one["answer_accuracy"] for name, one in manifest.items()}
    assert found["full"]["forget"] > 0.9
    assert found["full"]["retain"] > 0.9
    assert found["retain"]["retain"] > 0.9 > found["retain"]["forget"]
    assert found["target"]["forget"] > 0.9 > found["target"]["retain"]


def test_an_adapter_that_was_changed_is_refused(trained, tmp_path):
    (tmp_path / "full").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / "full" / name).write_bytes((trained / "adapters" / "full" / name).read_bytes() + b" ")
    (tmp_path / "manifest.json").write_bytes((trained / "adapters" / "manifest.json").read_bytes())
    with pytest.raises(ValueError, match="adapter_model.safetensors"):
        finetuned("full", str(trained / "model"), tmp_path)


def test_a_merged_adapter_changes_the_model(trained):
    base, full = (finetuned(name, str(trained / "model"), trained / "adapters") for name in ("base", "full"))
    tokens = torch.tensor([[3, 4, 9, 13]])
    assert not torch.allclose(base(tokens), full(tokens), atol=0.1)
    assert all(parameter.requires_grad for parameter in full.parameters())


def test_the_tables_of_a_model_with_adapters(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(tofu, "some_authors", benchmark)
    only = ["Task Arithmetic", "Engram, alpha by W-Norm", tofu.PRODUCING, "Q/K only, alpha by W-Norm",
            "naive delta, alpha by W-Norm", "NPO", "GradDiff", "RMU"]  # fmt: skip
    asked = ["--data", str(trained), "--model", str(trained / "model"), "--adapters", str(trained / "adapters")]
    where = ["--out", str(tmp_path / "tofu.json"), "--plot", str(tmp_path / "tofu.html")]
    result = CliRunner().invoke(tofu.main, [*asked, *where, *(text for name in only for text in ("--only", name))])
    assert result.exit_code == 0, result.output
    tables = json.loads((tmp_path / "tofu.json").read_text())
    scores = {(row["method"], row["score"]): row["value"] for row in tables["scores"]}
    assert {method for method, _ in scores} == {"full", "retain", *only}
    assert scores["full", "memorization"] == pytest.approx(0, abs=1e-3)
    assert scores["retain", "memorization"] == 1
    assert "Kendall's tau" in result.output


def test_data_are_needed_to_measure(tmp_path):
    result = CliRunner().invoke(tofu.main, ["--out", str(tmp_path / "tofu.json")])
    assert result.exit_code == 2
    assert "--data" in result.output


@pytest.mark.parametrize("name", NAMES)
def test_the_adapters_beside_the_script_are_those_of_their_manifest(name):
    weights = ADAPTERS / name / "adapter_model.safetensors"
    assert weights.stat().st_size < 12e6
    manifest = json.loads((ADAPTERS / "manifest.json").read_text())
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == manifest[name]["sha256"]
