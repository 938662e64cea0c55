"""Every model family of docs/models.md, saved to disk and loaded by path, against brute force on Hugging Face."""

from pathlib import Path

import engram as ai_engram
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from engram_interp import Concept, Engram, collect, export_hf, extract, load_model
from engram_interp.answers.generation import continued
from engram_interp.models import adapt
from engram_interp.models.components import COMPONENT
from engram_interp.models.sites import is_bias
from tests import huggingface
from tests.conftest import folded, hooked_only, skip_unless_it_runs, tokens
from tests.huggingface import DENSE, FAMILIES, HOOKED, Inputs

DOCUMENTED = Path(__file__).parents[2] / "docs" / "models.md"
TARGET, REFERENCE = tokens(40, 12, d_vocab=60, seed=1), tokens(80, 12, d_vocab=60, seed=2)
MASKS = TARGET % 5 > 1, REFERENCE % 5 > 1
CONCEPT = Concept.from_tokens(TARGET, REFERENCE, *MASKS)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The folder of a family's checkpoint; its name gives nothing away, since TransformerLens looks for names in it."""
    folders: dict[str, Path] = {}

    def saved(family: str) -> Path:
        if family not in folders:
            folders[family] = huggingface.save(huggingface.make(family), tmp_path_factory.mktemp("checkpoint"))
        return folders[family]

    return saved


def from_disk(folder: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def processed(folder: Path) -> nn.Module:
    return load_model(folder, process_weights=True)


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def assert_equal(found: Engram, expected: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert found[key].shape == tensor.shape, key
        assert relative_error(found[key], tensor) < tolerance, key


def expected_engram(family: str, folder: Path) -> dict[str, Tensor]:
    hf = from_disk(folder)
    engram = huggingface.brute_force(hf, TARGET, REFERENCE, *MASKS)
    if family == "Mixtral":
        engram |= huggingface.brute_force_experts(hf, TARGET, REFERENCE, *MASKS)
    return engram


def table() -> str:
    """The table in docs/models.md: a column for each test here, and a mark for each family that is a case of it."""
    columns = {
        "raw": FAMILIES,
        "processed": FAMILIES,
        "`HookedTransformer`": HOOKED,
        "ai-engram": DENSE,
        "export": FAMILIES,
    }
    lines = ["| family | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for family in FAMILIES:
        marks = ("✓" if family in families else "" for families in columns.values())
        lines.append(f"| {family} | {' | '.join(marks)} |")
    return "\n".join(lines)


def test_the_table_is_in_the_documentation():
    assert table() in DOCUMENTED.read_text(encoding="utf-8")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_engram_equals_brute_force_on_hugging_face_inputs(family, checkpoint):
    assert_equal(extract(load_model(checkpoint(family)), CONCEPT), expected_engram(family, checkpoint(family)))


@hooked_only
@pytest.mark.parametrize("family", HOOKED)
def test_a_hooked_transformer_of_the_same_weights_has_the_same_engram(family, checkpoint):
    model = huggingface.as_hooked_transformer(family, from_disk(checkpoint(family)), checkpoint(family))
    assert_equal(extract(model, CONCEPT), expected_engram(family, checkpoint(family)))


class InDouble:
    """torch, where float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@pytest.fixture
def summed_in_double(monkeypatch):
    """The authors' package with its sums in float64, as ours are.

    In float32 they carry rounding times the inputs' condition number, which is thousands here and differs between
    processors: 1e-3 of an engram of StableLM, 1e-4 of one of GPT-J.
    """
    for module in (ai_engram.collectors, ai_engram.editor):
        monkeypatch.setattr(module, "torch", InDouble())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("summed_in_double")
@pytest.mark.parametrize("family", DENSE)
def test_every_engram_equals_the_authors_package(family, checkpoint):
    hf = from_disk(checkpoint(family))

    def statistics(*parts):
        return editor.collect_statistics(
            [{"tokens": rows, "mask": mask} for rows, mask in parts],
            batch_fn=lambda batch: batch["tokens"],
            mask_fn=lambda batch: batch["mask"],
        )

    editor = ai_engram.EngramEditor(hf)
    sides = list(zip((TARGET, REFERENCE), MASKS))
    theirs = editor.compute_engram_weights(statistics(sides[0]), statistics(*sides))
    share = MASKS[0].sum() / (MASKS[0].sum() + MASKS[1].sum())  # they keep means, and n / N apart
    expected: dict[str, Tensor] = {}
    plain: dict[str, Tensor] = {}
    for name, module in huggingface.linear_modules(hf).items():
        projection = theirs.layers[name].projection * share
        bias = theirs.bias[name] * share if name in theirs.bias else None
        weight = projection.T if type(module).__name__ == "Conv1D" else projection
        expected |= huggingface.in_transformer_lens_shape(hf, name, weight, bias)
        plain[f"{name}.weight"] = projection
    assert_equal(extract(load_model(checkpoint(family)), CONCEPT), expected)
    batches = Concept.from_batches([TARGET], [REFERENCE], mask=lambda rows: MASKS[int(len(rows) == len(REFERENCE))])
    found = extract(hf, batches)
    assert_equal({key: found[key] for key in plain}, plain)


def unit(model: nn.Module, norm: nn.Module) -> bool:
    return bool((norm.weight == (0 if getattr(model.cfg, "rmsnorm_uses_offset", False) else 1)).all())


def processed_inputs(raw: nn.Module, model: nn.Module, key: str, X: Tensor) -> Tensor:
    """What a matrix reads after processing, `[in n]`, from what it read before.

    A folded norm leaves out its gain g and bias c, x' = (x - c) / g, and a value bias that was folded into b_O is
    missing from z: z' = z - (b_V + W_V c), since attention's weights sum to one.
    """
    if key.endswith("W_out"):
        return X
    layer = int(key.split(".")[1]) if "blocks" in key else None
    place = "unembed" if layer is None else key.split(".")[2]
    norms = {"unembed": ["ln_final"], "attn": ["ln1"], "mlp": ["ln2", "ln1"]}[place]
    before, after = (one if layer is None else one.blocks[layer] for one in (raw, model))
    name = next((name for name in norms if name in before._modules), None)
    if name is None:  # a norm behind the matrices is no norm in front of them
        return X
    norm, gain = before._modules[name], before._modules[name].weight.detach().double()
    bias = getattr(norm.original_component, "bias", None)
    shift = torch.zeros_like(gain) if bias is None else bias.detach().double()
    if not unit(model, after._modules[name]):
        gain, shift = torch.ones_like(gain), torch.zeros_like(shift)
    elif getattr(raw.cfg, "rmsnorm_uses_offset", False):
        gain = 1 + gain
    if not key.endswith("W_O"):
        return (X - shift[:, None]) / gain[:, None]
    value = COMPONENT["W_V"].to_matrix(before.attn.W_V.detach().double()) @ shift
    if before.attn.b_V is not None:
        value = value + before.attn.b_V.detach().double().flatten()
    by_head = value.view(-1, raw.cfg.d_head)
    return X - by_head.repeat_interleave(len(X) // len(value), 0).flatten()[:, None]


@pytest.mark.filterwarnings("ignore:.*does not support fold_ln")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_engram_of_processed_weights_equals_brute_force_on_processed_inputs(family, checkpoint):
    raw, model = load_model(checkpoint(family)), processed(checkpoint(family))
    hf, adapter, found = from_disk(checkpoint(family)), adapt(model), extract(model, CONCEPT)
    # OLMo-2's norms stand behind the matrices.
    assert adapter.info.processing.startswith("unembedding-centred" if family == "OLMo-2" else "folded")
    read = huggingface.read(hf, TARGET, REFERENCE, *MASKS)
    inputs = {
        key: read[name]
        for name, module in huggingface.linear_modules(hf).items()
        for key, _ in huggingface.in_transformer_lens_shape(hf, name, huggingface.weight_of(module), None)
    }
    if family == "Mixtral":
        of_experts = huggingface.expert_inputs(hf, TARGET, REFERENCE, *MASKS)
        inputs |= {site.key: of_experts[site.input] for site in adapter.all_sites() if site.expert is not None}
    assert {key for key in found if not is_bias(key)} == set(inputs)
    biases = {key for key in found if is_bias(key)}
    for site in adapter.all_sites():
        X = inputs[site.key]
        X = Inputs(*(processed_inputs(raw, model, site.key, side) for side in (X.target, X.reference)))
        bias = adapter.parameter(site.bias).detach().flatten() if site.bias in biases else None
        W_plus, b_plus = huggingface.engram(site.layout.to_matrix(adapter.parameter(site.key).detach()), bias, X)
        assert relative_error(site.layout.to_matrix(found[site.key]), W_plus) < 1e-4, site.key
        if bias is not None:
            assert relative_error(found[site.bias].flatten(), b_plus) < 1e-4, site.bias


@pytest.mark.filterwarnings("ignore:.*does not support fold_ln")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("load", [load_model, processed])
def test_the_edit_of_every_matrix_reaches_the_models_output_and_copies_and_originals_agree(family, load, checkpoint):
    model = load(checkpoint(family))
    logits = model(TARGET)
    engram = extract(model, CONCEPT)
    for key in engram.weight_norms:
        with engram.ablated(model, alpha={key: 1.0}):
            assert not torch.equal(model(TARGET), logits), key
    edited = engram.ablate(model, alpha=0.7)
    with engram.ablated(model, alpha=0.7):
        torch.testing.assert_close(edited(TARGET), model(TARGET), rtol=0, atol=0)
    torch.testing.assert_close(model(TARGET), logits, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*does not support fold_ln")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("load", [load_model, processed])
def test_what_comes_next_is_the_same_with_what_was_seen_kept(family, load, checkpoint):
    model = load(checkpoint(family))
    adapter, rows = adapt(model), tokens(2, 8, d_vocab=60)
    with torch.no_grad():
        logits = model(rows)
    seen = None
    for n in range(4, 8):
        found, seen = adapter.next_logits(rows[:, :n] if seen is None else rows[:, n - 1 : n], seen)
        assert relative_error(found, logits[:, n - 1]) < 1e-4, n


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize(("dtype", "worst", "median"), [(torch.bfloat16, 0.15, 0.02), (torch.float16, 0.05, 0.003)])
def test_reduced_precision_is_summed_in_float32_and_edited_with_one_rounding(family, dtype, worst, median, tmp_path):
    # The weights are the same in both models, so what differs are activations of 8 (bf16) or 11 (fp16) bits. The worst
    # matrix is one whose input nearly lacks a direction.
    huggingface.save(huggingface.make(family, dtype=dtype), tmp_path)
    exact, reduced = load_model(tmp_path), load_model(tmp_path, dtype=dtype)
    skip_unless_it_runs(reduced, TARGET)
    expected, found = extract(exact, CONCEPT), extract(reduced, CONCEPT)
    errors = torch.tensor([relative_error(found[key], expected[key]) for key in expected])
    assert errors.max() < worst
    assert errors.median() < median
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    with expected.ablated(reduced, alpha=0.5):  # the engram of one serves the other
        for key in expected.weight_norms:
            weight = adapt(exact).parameter(key) - torch.tensor(0.5) * expected[key]
            assert torch.equal(adapt(reduced).parameter(key), weight.to(dtype)), key


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_checkpoint_has_the_edited_models_logits(family, checkpoint, tmp_path):
    model = load_model(checkpoint(family))
    engram = extract(model, CONCEPT)
    edited = engram.ablate(model, alpha=0.7)
    expected = edited(TARGET)
    assert not torch.allclose(expected, model(TARGET), atol=0.1)
    export_hf(engram, checkpoint(family), tmp_path / "engram", alpha=0.7)
    export_hf(edited, checkpoint(family), tmp_path / "model")
    for name in ("engram", "model"):
        torch.testing.assert_close(from_disk(tmp_path / name)(TARGET).logits, expected, rtol=0, atol=1e-5)


@hooked_only
@pytest.mark.parametrize("family", HOOKED)
def test_an_engram_goes_from_one_class_to_the_other_and_into_the_checkpoint(family, checkpoint, tmp_path):
    hooked = huggingface.as_hooked_transformer(family, from_disk(checkpoint(family)), checkpoint(family))
    bridge = load_model(checkpoint(family))
    engram = extract(hooked, CONCEPT)
    engram.save(tmp_path / "engram.safetensors")
    engram = Engram.load(tmp_path / "engram.safetensors")
    expected = engram.ablate(hooked, alpha=0.7)(TARGET).log_softmax(-1)
    with engram.ablated(bridge, alpha=0.7):
        torch.testing.assert_close(bridge(TARGET).log_softmax(-1), expected, rtol=0, atol=1e-4)
    back = extract(bridge, CONCEPT).ablate(hooked, alpha=0.7)
    torch.testing.assert_close(back(TARGET).log_softmax(-1), expected, rtol=0, atol=1e-4)
    export_hf(engram.ablate(hooked, alpha=0.7), checkpoint(family), tmp_path / "model")
    exported = from_disk(tmp_path / "model")(TARGET).logits.log_softmax(-1)
    torch.testing.assert_close(exported, expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*does not support fold_ln")
@hooked_only
@pytest.mark.parametrize("family", [family for family in HOOKED if family in DENSE])
def test_processed_alike_an_engram_goes_from_one_class_to_the_other_too(family, checkpoint):
    hooked = folded(huggingface.as_hooked_transformer(family, from_disk(checkpoint(family)), checkpoint(family)))
    bridge = processed(checkpoint(family))
    engram = extract(hooked, CONCEPT)
    with engram.select(["Q", "K", "V", "O", "out", "U"]).ablated(bridge, alpha=0.7):
        found = bridge(TARGET).log_softmax(-1)
    expected = engram.select(["Q", "K", "V", "O", "out", "U"]).ablate(hooked, alpha=0.7)(TARGET).log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="the engram.*folded.* raw "):
        engram.ablate(load_model(checkpoint(family)))


@pytest.mark.filterwarnings("ignore:.*does not support fold_ln")
@pytest.mark.parametrize("family", DENSE)
def test_a_cache_holds_the_same_statistics(family, checkpoint):
    from engram_interp import Statistics, names_filter

    for load in (load_model, processed):
        model = load(checkpoint(family))
        caches = [model.run_with_cache(rows, names_filter=names_filter(model))[1] for rows in (TARGET, REFERENCE)]
        cached = Statistics.from_caches(model, *caches, *MASKS)
        collected = collect(model, CONCEPT)
        assert set(cached.inputs) == set(collected.inputs)
        for group, moments in collected.groups.items():
            for name, moment in moments.items():
                torch.testing.assert_close(cached.groups[group][name].second, moment.second, rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*does not support fold_ln")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("load", [load_model, processed])
def test_greedy_tokens_are_those_of_full_passes(family, load, checkpoint):
    model = load(checkpoint(family))
    expected = rows = tokens(3, 4, d_vocab=60)
    with torch.no_grad():
        for _ in range(6):
            expected = torch.cat([expected, model(expected)[:, -1].argmax(-1, keepdim=True)], dim=1)
    # A tokenizer's end of sequence would end a row: these models have one of another vocabulary.
    model.tokenizer = None
    assert continued(adapt(model), rows, 6) == expected[:, 4:].tolist()


@pytest.mark.filterwarnings("ignore:.*does not support fold_ln")
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_in_front_changes_no_token_where_it_is_taken(family, checkpoint):
    model = load_model(checkpoint(family))
    adapter, rows = adapt(model), tokens(3, 6, d_vocab=60)
    if not adapter.pads_left:
        pytest.skip("takes prompts of one length")
    model.tokenizer = None
    real = torch.ones_like(rows, dtype=torch.bool)
    real[1, :2] = real[2, :4] = False
    alone = [continued(adapter, row[mask][None], 5)[0] for row, mask in zip(rows, real)]
    assert continued(adapter, rows.where(real, 0), 5, real) == alone
