import json

import pytest
import torch
import transformers
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from engram_interp import Concept, collect, greedy_answers, load_model, testbed
from engram_interp.models import adapt, loading
from engram_interp.models.loading import as_language_model, same_model
from tests import huggingface
from tests.conftest import build, hooked_only


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return huggingface.save(huggingface.make("Llama"), tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("as_given", [str, lambda path: path], ids=["text", "path"])
def test_a_folder_becomes_a_bridge_with_its_weights_as_they_were(folder, as_given):
    hf = huggingface.make("Llama")
    model = load_model(as_given(folder))
    assert isinstance(model, TransformerBridge)
    assert adapt(model).info.processing == "raw"
    assert torch.equal(adapt(model).parameter("blocks.1.mlp.W_in"), hf.model.layers[1].mlp.up_proj.weight.T)


def test_processing_is_done_when_it_is_asked_for(folder):
    assert adapt(load_model(folder, process_weights=True)).info.processing == "folded, unembedding-centred"


def test_the_dtype_is_float32_unless_another_is_asked_for(tmp_path):
    huggingface.save(huggingface.make("Llama", dtype=torch.bfloat16), tmp_path)
    assert adapt(load_model(tmp_path)).parameter("unembed.W_U").dtype == torch.float32
    assert adapt(load_model(tmp_path, dtype=torch.bfloat16)).parameter("unembed.W_U").dtype == torch.bfloat16


def test_a_folder_with_llama_in_its_name_is_a_folder(tmp_path):
    huggingface.save(huggingface.make("GPT-2"), tmp_path / "my-llama-gpt2")
    assert adapt(load_model(tmp_path / "my-llama-gpt2")).n_layers == 2


def test_without_a_tokenizer_a_model_reads_tokens(tmp_path):
    huggingface.make("Llama").save_pretrained(tmp_path)
    model = load_model(tmp_path)
    rows = torch.randint(3, 60, (4, 5))
    assert collect(model, Concept.from_tokens(rows, rows)).counts == {"target": 20, "reference": 20}
    with pytest.raises(ValueError, match="tokenizer"):
        collect(model, Concept(["a"], ["b"]))


def test_text_goes_through_the_folders_tokenizer(tmp_path):
    hf = huggingface.make("Llama", vocab_size=2000)
    model = load_model(huggingface.save(hf, tmp_path))
    concept = Concept([("Where was she born?", "in Oslo")], ["What is the capital of Norway?"])
    assert collect(model, concept).counts == {"target": 3, "reference": 7}
    assert len(greedy_answers(model, ["Where?"], max_new_tokens=2)) == 1


@hooked_only
def test_a_name_that_transformer_lens_knows_becomes_a_hooked_transformer(monkeypatch):
    from transformer_lens import HookedTransformer

    asked, model = [], nn.Linear(1, 1)
    load = lambda *given, **options: asked.append((given, options)) or model  # noqa: E731
    monkeypatch.setattr(HookedTransformer, "from_pretrained_no_processing", load)
    assert load_model("pythia-70m", dtype=torch.float16) is model
    assert asked == [(("pythia-70m",), {"dtype": torch.float16, "device": None})]


def test_any_other_name_becomes_a_bridge(monkeypatch, folder):
    asked, model = [], load_model(folder)
    monkeypatch.setattr(TransformerBridge, "boot_transformers", lambda name, **_: asked.append(name) or model)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda _: model.tokenizer)
    monkeypatch.setattr(loading, "require_all_weights", lambda _model_class, name: asked.append(name))
    assert load_model("someone/her-own-model") is model
    assert asked == ["someone/her-own-model"] * 2


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/nowhere"])
def test_a_path_at_which_there_is_nothing_is_not_taken_for_a_name(path):
    with pytest.raises(FileNotFoundError, match="folder .*nowhere"):
        load_model(path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path}.*config\.json"):
        load_model(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"{tmp_path}.*PEFT.*merge"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match=r"adapter_config\.json.*file.*folder"):
        load_model(tmp_path / "adapter_config.json")


@pytest.mark.parametrize("name", ["gpt2-small", "pythia-70m"])
def test_a_folder_called_like_an_alias_is_itself(name, tmp_path, monkeypatch):
    hf = huggingface.make("GPT-2", seed=3)
    huggingface.save(hf, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    model = load_model(name)
    assert torch.equal(adapt(model).parameter("unembed.W_U").T, hf.lm_head.weight)
    assert adapt(model).info.name == name


def test_a_tokenizer_without_bos_gets_none(tmp_path):
    huggingface.save(huggingface.make("Llama", vocab_size=2000), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path)
    (encoded,) = adapt(load_model(tmp_path)).encoder.encode_all(["the city of Oslo"], "x")
    assert encoded.tokens.tolist() == tokenizer("the city of Oslo", add_special_tokens=False).input_ids
    assert encoded.counts.all()


def test_a_name_that_nobody_has_is_named():
    with pytest.raises(OSError, match="'someone/nosuchmodel'.*folder.*hub"):
        load_model("someone/nosuchmodel")


@hooked_only
def test_aliases_are_one_model():
    assert same_model("gpt2-small", "openai-community/gpt2")
    assert not same_model("gpt2-small", "gpt2-medium")


def test_a_checkpoint_without_some_weights_is_refused_by_their_names(tmp_path):
    hf = huggingface.make("Llama")
    weights = hf.state_dict()
    del weights["model.layers.1.mlp.up_proj.weight"]
    hf.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(tmp_path)


def test_an_encoder_without_its_head_is_refused(tmp_path):
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=60
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises((ValueError, NotImplementedError), match="BertForMaskedLM.*cls|embed"):
        load_model(tmp_path)


def test_transformers_says_as_much_as_before(folder):
    before = transformers.logging.get_verbosity()
    load_model(folder)
    assert transformers.logging.get_verbosity() == before


def _truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])


def _widen(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_truncate, "SafetensorError"),
        (_widen, r"model\.layers\.0\.mlp\.down_proj\.weight"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded: "),
        (lambda folder: (folder / "config.json").write_text("null"), "cannot be loaded: "),
    ],
    ids=["cut short", "of another shape", "no tokenizer", "no configuration"],
)
def test_a_broken_checkpoint_is_named(tmp_path, spoil, says):
    huggingface.save(huggingface.make("Llama"), tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path.name} .*{says}"):
        load_model(tmp_path)


def test_weights_without_a_place_are_named_in_a_warning(tmp_path, caplog):
    huggingface.save(huggingface.make("Llama"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    load_model(tmp_path)
    assert "model.layers.1" in caplog.text


def test_padding_never_reaches_what_counts_in_a_model_that_looks_both_ways(tmp_path):
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=60
    )
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    model, rows = load_model(tmp_path), torch.arange(5, 45).view(4, 10)
    collect(model, Concept.from_tokens(rows, rows))
    with pytest.raises(ValueError, match="both directions"):
        collect(model, Concept.from_tokens(rows, rows[:, :8]))


def test_a_hugging_face_model_is_a_bridge_around_the_same_parameters():
    hf, tokenizer = huggingface.make("Llama", vocab_size=1000), testbed.load("base").tokenizer
    before, names = {name: one.clone() for name, one in hf.named_parameters()}, list(hf.state_dict())
    bridge = as_language_model(hf, tokenizer)
    with torch.no_grad():
        hf.model.layers[0].mlp.up_proj.weight.add_(1)
    assert torch.equal(adapt(bridge).parameter("blocks.0.mlp.W_in").T, hf.model.layers[0].mlp.up_proj.weight)
    assert list(hf.state_dict()) == names
    changed = [name for name, one in hf.named_parameters() if not torch.equal(one, before[name])]
    assert changed == ["model.layers.0.mlp.up_proj.weight"]


def test_what_is_no_hugging_face_model_or_has_no_tokenizer_stays_what_it_is():
    hf, net = huggingface.make("Llama"), torch.nn.Linear(2, 2)
    assert as_language_model(hf) is hf
    assert as_language_model(net, testbed.load("base").tokenizer) is net


@hooked_only
def test_a_checkpoint_value_goes_to_transformer_lens(monkeypatch):
    from transformer_lens import HookedTransformer

    asked = {}

    def load(name, **options):
        asked.update(options, name=name)
        return build("llama")

    monkeypatch.setattr(HookedTransformer, "from_pretrained_no_processing", load)
    load_model("pythia-70m", checkpoint_value=1000)
    assert asked["checkpoint_value"] == 1000
    load_model("pythia-70m")
    assert asked["name"] == "pythia-70m"


def test_a_folder_has_no_checkpoint_value(tmp_path):
    huggingface.save(huggingface.make("Llama"), tmp_path / "llama")
    with pytest.raises(ValueError, match="checkpoint_value"):
        load_model(tmp_path / "llama", checkpoint_value=3)


def test_a_peft_model_is_read_with_its_adapter_and_stays_as_it_is():
    peft = pytest.importorskip("peft")
    hf, tokenizer = huggingface.make("Llama", vocab_size=1000), testbed.load("base").tokenizer
    wrapped = peft.get_peft_model(hf, peft.LoraConfig(target_modules=["up_proj"], r=2, init_lora_weights=False))
    names, rows = list(wrapped.state_dict()), torch.arange(3, 12)[None]
    expected = wrapped(rows).logits
    bridge = as_language_model(wrapped, tokenizer)
    assert torch.allclose(bridge(rows), expected, atol=1e-5)
    assert list(wrapped.state_dict()) == names
    assert torch.equal(wrapped(rows).logits, expected)
