import logging

import pytest
import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from engram_interp import export_hf, extract, load_model
from engram_interp.models import adapt, checkpoint
from engram_interp.models.loading import bridge_of
from tests import huggingface
from tests.conftest import hooked_only, token_concept, tokens


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return huggingface.save(huggingface.make("GPT-2", seed=1), tmp_path_factory.mktemp("tied"))


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    return huggingface.save(huggingface.make("Llama"), tmp_path_factory.mktemp("untied"))


def stored(folder) -> dict[str, torch.Tensor]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_only_what_the_edit_touches_changes(untied, tmp_path):
    model = load_model(untied)
    export_hf(extract(model, token_concept(), components="gate", layers=1), untied, tmp_path / "out", alpha=2.0)
    before, after = stored(untied), stored(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["model.layers.1.mlp.gate_proj.weight"]


def test_the_unembedding_of_a_tied_model_stays_tied_unless_it_is_edited(tied, tmp_path, caplog):
    engram = extract(load_model(tied), token_concept())
    with caplog.at_level(logging.WARNING, "engram_interp"):
        export_hf(engram.select(["Q", "in"]), tied, tmp_path / "blocks")
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        export_hf(engram.select("U"), tied, tmp_path / "unembedding")
    assert "W_U" in caplog.text
    for name, is_tied in (("blocks", True), ("unembedding", False)):
        hf = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert hf.config.tie_word_embeddings == is_tied
        assert torch.equal(hf.lm_head.weight, hf.transformer.wte.weight) == is_tied
    assert torch.equal(hf.transformer.wte.weight, AutoModelForCausalLM.from_pretrained(tied).transformer.wte.weight)


def test_an_edit_in_place_leaves_a_tied_embedding_alone_and_ties_again(tied):
    model = load_model(tied)
    embedding = model.embed.weight.detach().clone()
    engram = extract(model, token_concept(), components="U")
    with engram.ablated(model, alpha=1.0):
        assert torch.equal(model.embed.weight, embedding)
        assert not torch.equal(adapt(model).parameter("unembed.W_U"), embedding.T)
    assert torch.equal(adapt(model).parameter("unembed.W_U"), embedding.T)
    assert model.unembed.original_component.weight is model.embed.original_component.weight


def test_the_checkpoints_dtype_and_tokenizer_stay(tmp_path):
    source = huggingface.save(huggingface.make("Llama", dtype=torch.bfloat16), tmp_path / "source")
    engram = extract(load_model(source), token_concept(), components="out")
    export_hf(engram, source, tmp_path / "out", alpha=0.5)
    before, after = stored(source), stored(tmp_path / "out")
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    # float32 until the one rounding into the checkpoint
    name = "model.layers.0.mlp.down_proj.weight"
    exact = before[name].float() - torch.tensor(0.5) * engram["blocks.0.mlp.W_out"].T
    assert torch.equal(after[name], exact.bfloat16())
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == AutoTokenizer.from_pretrained(source).get_vocab()
    )


def test_an_export_can_be_edited_and_exported_again(untied, tmp_path):
    engram = extract(load_model(untied), token_concept(), components="in")
    once = export_hf(engram, untied, tmp_path / "once", alpha=1.0)
    twice = export_hf(engram, once, tmp_path / "twice", alpha=-1.0)
    expected, found = stored(untied), stored(twice)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("what", ["engram", "model"])
def test_processed_weights_are_refused(untied, tmp_path, what):
    model = load_model(untied, process_weights=True)
    engram = extract(model, token_concept(), components="in")
    given = engram if what == "engram" else engram.ablate(model)
    with pytest.raises(ValueError, match="folded, unembedding-centred .*without processing"):
        export_hf(given, untied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_models_engram_is_refused(untied, tied, tmp_path):
    engram = extract(load_model(tied), token_concept(), components="in")
    with pytest.raises(ValueError, match="the engram.*another model"):
        export_hf(engram, untied, tmp_path / "out")


def test_folders_are_checked_before_any_work(untied, tmp_path):
    engram = extract(load_model(untied), token_concept(), components="in")
    with pytest.raises(ValueError, match=f"{untied}.*model already"):
        export_hf(engram, untied, untied)
    with pytest.raises(ValueError, match=r"config\.json"):
        export_hf(engram, tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"alpha.*2\.0"):
        export_hf(engram.ablate(load_model(untied)), untied, tmp_path / "out", alpha=2.0)


@hooked_only
def test_a_bias_that_the_checkpoint_has_no_place_for_is_refused(untied, tmp_path):
    hf = AutoModelForCausalLM.from_pretrained(untied)
    neutral = huggingface.save(hf, tmp_path / "checkpoint")
    hooked = huggingface.as_hooked_transformer("Llama", hf, neutral)
    hooked.blocks[0].mlp.b_out.data += 1
    with pytest.raises(ValueError, match=r"blocks\.0\.mlp\.b_out"):
        export_hf(hooked, neutral, tmp_path / "out")


def test_the_testbed_is_no_checkpoint(full, tmp_path):
    engram = extract(full, token_concept(), components="in", layers=0)
    with pytest.raises(FileNotFoundError):
        export_hf(engram, "./testbed", tmp_path / "out")
    assert full(tokens()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["Llama", "GPT-2", "Mixtral"])
def test_an_edit_of_more_than_matrices_is_refused(family, dtype, tmp_path):
    source = huggingface.save(huggingface.make(family, dtype=dtype), tmp_path / "source")
    edited = extract(load_model(source), token_concept(), components="Q").ablate(load_model(source))
    export_hf(edited, source, tmp_path / "out")
    row = edited.embed.original_component.weight.data[7].clone()
    edited.embed.original_component.weight.data[7] *= 3
    with pytest.raises(ValueError, match=r"(embed_tokens|wte)\.weight"):
        export_hf(edited, source, tmp_path / "more")
    edited.embed.original_component.weight.data[7] = row
    edited.blocks[0].ln1.original_component.weight.data *= 1.1
    with pytest.raises(ValueError, match=r"(layernorm|ln_1)\.weight"):
        export_hf(edited, source, tmp_path / "more")
    assert not (tmp_path / "more").exists()


@hooked_only
def test_an_edit_of_more_than_matrices_is_refused_of_a_hooked_transformer_too(untied, tmp_path):
    source = huggingface.save(AutoModelForCausalLM.from_pretrained(untied), tmp_path / "source")
    hooked = huggingface.as_hooked_transformer("Llama", AutoModelForCausalLM.from_pretrained(source), source)
    hooked.blocks[0].ln1.w.data *= 2
    with pytest.raises(ValueError, match=r"logits.*%.*more was edited"):
        export_hf(hooked, source, tmp_path / "out")


def test_a_forward_pass_that_is_not_hugging_faces_is_refused(untied, tmp_path, monkeypatch):
    engram = extract(load_model(untied), token_concept(), components="in")
    monkeypatch.setattr(checkpoint, "bridge_of", lambda *given: _otherwise(bridge_of(*given)))
    with pytest.raises(ValueError, match="LlamaForCausalLM.*logits.*%"):
        export_hf(engram, untied, tmp_path / "out")


def _otherwise(bridge):
    bridge.blocks[0].register_forward_hook(
        lambda _m, _args, out: (2 * out[0], *out[1:]) if isinstance(out, tuple) else 2 * out
    )
    return bridge


def test_what_was_not_edited_keeps_its_precision(untied, tmp_path):
    # The edited copy is in bf16, the checkpoint in float32.
    coarse = load_model(untied, dtype=torch.bfloat16)
    engram = extract(load_model(untied), token_concept(), components="Q", layers=0).select(heads=[0])
    export_hf(engram.ablate(coarse), untied, tmp_path / "out")
    name = "model.layers.0.self_attn.q_proj.weight"
    before, after = stored(untied)[name], stored(tmp_path / "out")[name]
    assert torch.equal(after[8:], before[8:])
    assert not torch.equal(after[:8], before[:8])


def test_a_tilde_is_the_home_folder(untied, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(untied.parent))
    engram = extract(load_model(untied), token_concept(), components="in", layers=0)
    assert (export_hf(engram, f"~/{untied.name}", tmp_path / "out") / "config.json").exists()


def test_a_file_in_the_way_is_refused(untied, tmp_path):
    engram = extract(load_model(untied), token_concept(), components="gate")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(NotADirectoryError, match="out.*file"):
        export_hf(engram, untied, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        export_hf(engram, untied, tmp_path / "nowhere" / "out")
    assert (tmp_path / "out").read_text() == "a file"


def test_a_full_disk_leaves_nothing_that_blocks_another_try(untied, tmp_path, monkeypatch):
    engram = extract(load_model(untied), token_concept(), components="gate")

    def full(self, folder, **_):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(transformers.PreTrainedModel, "save_pretrained", full)
        with pytest.raises(OSError, match=r"out.*: No space left"):
            export_hf(engram, untied, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    export_hf(engram, untied, tmp_path / "out")
    assert [found.name for found in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_other_files_keeps_them(untied, tmp_path):
    engram = extract(load_model(untied), token_concept(), components="gate")
    (tmp_path / "notes.txt").write_text("mine")
    export_hf(engram, untied, tmp_path)
    assert {"notes.txt", "config.json", "model.safetensors"} <= {found.name for found in tmp_path.iterdir()}
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_text("mine")
    with pytest.raises(FileExistsError, match=r"model\.safetensors"):
        export_hf(engram, untied, other)
    assert [found.name for found in other.iterdir()] == ["model.safetensors"]


def test_a_checkpoint_that_is_not_finite_is_not_written(tmp_path):
    source = huggingface.save(huggingface.make("Llama", dtype=torch.float16), tmp_path / "half")
    engram = extract(load_model(source), token_concept(), components="gate")
    with pytest.raises(ValueError, match="finite"):
        export_hf(engram, source, tmp_path / "out", alpha=1e7)
    edited = load_model(source)
    adapt(edited).parameter("blocks.0.mlp.W_gate").data[0, 0] = torch.inf
    with pytest.raises(ValueError, match="finite"):
        export_hf(edited, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
