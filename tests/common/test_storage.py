import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from engram_interp import Concept, Engram, Statistics, collect, extract
from engram_interp.common import storage
from tests.conftest import build, token_concept, tokens


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "it.safetensors"
    storage.write(path, "engram", {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(4)}, {"name": "x"})
    return path


def test_round_trip(path):
    content = storage.read(path, "engram")
    assert content.tensor("a").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert int(content.tensor("n")) == 4
    assert content.fields == {"name": "x"}


def test_another_kind_is_refused(path):
    with pytest.raises(ValueError, match=r"it\.safetensors .*statistics.*engram"):
        storage.read(path, "statistics")


@pytest.mark.parametrize("left", [4, 30, -1, -20])
def test_a_file_cut_short_is_refused(path, left):
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    with pytest.raises(ValueError, match=r"it\.safetensors .*foreign" if left == 4 else r"it\.safetensors .*cut short"):
        storage.read(path, "engram")


@pytest.mark.parametrize("place", [-1, -9, -20, -32])
def test_an_altered_tensor_is_refused(path, place):
    whole = bytearray(path.read_bytes())  # ends in two tensors of 24 and 8 bytes
    whole[place] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match=r"it\.safetensors .*altered.*checksum"):
        storage.read(path, "engram")


def test_altered_fields_are_refused(path):
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'\\"x\\"', b'\\"y\\"'))
    with pytest.raises(ValueError, match=r"it\.safetensors .*altered.*checksum"):
        storage.read(path, "engram")


def test_an_altered_header_is_refused(path):
    whole = bytearray(path.read_bytes())
    whole[9] = 0
    path.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match=r"it\.safetensors .*altered.*header is not"):
        storage.read(path, "engram")
    path.write_bytes(_with_shape(whole))
    with pytest.raises(ValueError, match=r"it\.safetensors .*altered.*header does not fit"):
        storage.read(path, "engram")


def _with_shape(whole: bytearray) -> bytes:
    whole[9] = ord('"')
    return bytes(whole).replace(b'"shape":[2,3]', b'"shape":[2,9]')


def test_another_version_is_refused(path):
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"version":"2"', b'"version":"1"'))
    with pytest.raises(ValueError, match=r"it\.safetensors .*version 1.*version 2"):
        storage.read(path, "engram")


def test_foreign_files_are_refused(tmp_path):
    plain = tmp_path / "plain.safetensors"
    save_file({"a": torch.zeros(2)}, plain)
    with pytest.raises(ValueError, match=r"plain\.safetensors .*foreign.*engram_interp"):
        storage.read(plain, "engram")
    text = tmp_path / "text.json"
    text.write_text(json.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"text\.json .*foreign"):
        storage.read(text, "engram")
    torch.save({"a": torch.zeros(2)}, tmp_path / "pickle.pt")
    with pytest.raises(ValueError, match=r"pickle\.pt .*foreign"):
        storage.read(tmp_path / "pickle.pt", "engram")
    with pytest.raises(FileNotFoundError, match="no file .*none"):
        storage.read(tmp_path / "none", "engram")


def forge(path, kind: str, tensors: dict[str, torch.Tensor], fields: str) -> None:
    """A file with a valid checksum, whatever it holds."""
    tensors = dict(sorted(tensors.items()))
    metadata = {"format": storage.FORMAT, "version": storage.VERSION, "kind": kind, "fields": fields}
    save_file(tensors, path, {**metadata, "checksum": storage._checksum(fields, tensors)})


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """An engram and statistics: how each is read, its tensors, and its fields."""
    model, folder = build("gpt2"), tmp_path_factory.mktemp("files")
    few = Concept.from_tokens(tokens(2, 4), tokens(30, 6, seed=2))  # of the target, the rows are kept
    made = {"engram": extract(model, token_concept()), "statistics": collect(model, few)}
    load = {"engram": Engram.load, "statistics": Statistics.load}
    found = {}
    for kind, one in made.items():
        one.save(folder / kind)
        content = storage.read(folder / kind, kind)
        found[kind] = load[kind], content.tensors, content.fields
    return found


def spoilt(tensor: torch.Tensor, how: str) -> torch.Tensor:
    spoil = {
        "negative": lambda: -tensor - 1,
        "nan": lambda: tensor.double() * torch.nan,
        "infinite": lambda: tensor.double() + torch.inf,
        "int8": lambda: tensor.to(torch.int8),
        "complex": lambda: tensor.to(torch.complex64),
        "boolean": lambda: tensor.bool(),
        "flat": lambda: tensor.flatten(),
        "longer": lambda: torch.cat([tensor, tensor]),
        "deeper": lambda: tensor[None],
        "empty": lambda: tensor[:0],
        "asymmetric": lambda: tensor + torch.arange(tensor.numel()).view(tensor.shape).to(tensor),
    }
    return spoil[how]().contiguous()


MUST_FAIL = {
    "second": [
        "negative", "nan", "infinite", "int8", "complex", "boolean", "flat", "longer", "deeper", "empty", "asymmetric",
    ],
    "rows": ["nan", "infinite", "int8", "complex", "boolean", "flat", "longer", "deeper", "empty"],
    "first": ["nan", "infinite", "int8", "complex", "boolean", "longer", "deeper", "empty"],
    "count": ["negative", "nan", "int8", "complex", "boolean", "longer", "deeper", "empty"],
    "tensors": ["nan", "infinite", "int8", "complex", "boolean", "deeper"],
    "weight_norms": ["negative", "nan", "infinite", "int8", "complex", "boolean", "longer", "deeper", "empty"],
}  # fmt: skip


@pytest.mark.parametrize(("part", "how"), [(part, how) for part, hows in MUST_FAIL.items() for how in hows])
def test_a_tensor_that_is_no_moment_or_no_engram_is_refused_though_the_checksum_fits(kinds, tmp_path, part, how):
    kind = "engram" if part in ("tensors", "weight_norms") else "statistics"
    load, tensors, fields = kinds[kind]
    names = [name for name in tensors if part in name.split("/")]
    for name in (names[0], names[-1]):
        forge(tmp_path / "it", kind, {**tensors, name: spoilt(tensors[name], how)}, json.dumps(fields))
        with pytest.raises(ValueError, match="it does not hold"):
            load(tmp_path / "it")


def test_an_indefinite_moment_is_refused(kinds, tmp_path):
    load, tensors, fields = kinds["statistics"]
    name = next(name for name in tensors if name.endswith("second"))
    second = tensors[name].clone()
    second[0, 1] = second[1, 0] = 2 * (second[0, 0] * second[1, 1]).sqrt()
    forge(tmp_path / "it", "statistics", {**tensors, name: second}, json.dumps(fields))
    with pytest.raises(ValueError, match="it does not hold.*diagonal"):
        load(tmp_path / "it")


def loaded_or_refused(load, path):
    """What is loaded, or what the error says; any other error than a ValueError is a failure."""
    try:
        return load(path), ""
    except ValueError as error:
        return None, str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize("kind", ["engram", "statistics"])
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_fields_are_read_right_or_refused(kinds, kind, tmp_path, data):
    load, tensors, fields = kinds[kind]
    name = data.draw(st.sampled_from(sorted(fields)))
    change = data.draw(st.sampled_from(["drop", "replace", "inside", "whole"]))
    changed = json.loads(json.dumps(fields))
    if change == "drop":
        del changed[name]
    elif change == "inside" and isinstance(changed[name], dict) and changed[name]:
        changed[name][data.draw(st.sampled_from(sorted(changed[name])))] = data.draw(JSON)
    elif change == "inside" and isinstance(changed[name], list) and changed[name]:
        changed[name][data.draw(st.integers(0, len(changed[name]) - 1))] = data.draw(JSON)
    else:
        changed[name] = data.draw(JSON)
    forge(tmp_path / "it", kind, tensors, json.dumps(data.draw(JSON) if change == "whole" else changed))
    loaded, refused = loaded_or_refused(load, tmp_path / "it")
    if loaded is None:
        assert str(tmp_path / "it") in refused
        return
    repr(loaded)
    loaded.save(tmp_path / "again")
    assert type(loaded).load(tmp_path / "again").info == loaded.info


@pytest.mark.parametrize("kind", ["engram", "statistics"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_bytes_are_read_right_or_refused(kinds, kind, tmp_path, data):
    load, tensors, fields = kinds[kind]
    forge(tmp_path / "it", kind, tensors, json.dumps(fields))
    whole = bytearray((tmp_path / "it").read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        # Most changes to the header, where a change of the numbers alone is seen by the checksum.
        place = data.draw(st.integers(0, header - 1) | st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255) | st.sampled_from(list(b'"{}[]:,0-9')))
    (tmp_path / "it").write_bytes(bytes(whole[: data.draw(st.just(len(whole)) | st.integers(0, len(whole)))]))
    loaded, refused = loaded_or_refused(load, tmp_path / "it")
    if loaded is None:
        assert str(tmp_path / "it") in refused
        return
    forge(tmp_path / "original", kind, tensors, json.dumps(fields))
    assert repr(loaded) == repr(load(tmp_path / "original"))


@pytest.mark.parametrize(
    "second",
    [[[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]], [[4, 0, 0], [0, 4, 3.9], [0, 3.9, 3]]],
    ids=["eigenvalue -0.8", "eigenvalue -0.4"],
)
def test_a_negative_eigenvalue_is_refused_though_every_pair_is_in_order(kinds, tmp_path, second):
    load, tensors, fields = kinds["statistics"]
    name = next(name for name in tensors if name.endswith("second")).removesuffix("/second")
    small = {f"{name}/second": torch.tensor(second, dtype=torch.float64), f"{name}/first": torch.zeros(3).double()}
    forge(tmp_path / "it", "statistics", tensors | small, json.dumps(fields))
    with pytest.raises(ValueError, match="it does not hold"):
        load(tmp_path / "it")


def test_no_position_has_no_moment(kinds, tmp_path):
    load, tensors, fields = kinds["statistics"]
    name = next(name for name in tensors if name.endswith("second")).replace("second", "count")
    forge(tmp_path / "it", "statistics", {**tensors, name: torch.tensor([0, 9])}, json.dumps(fields))
    with pytest.raises(ValueError, match="it does not hold.*no position"):
        load(tmp_path / "it")


@pytest.mark.parametrize(
    "key",
    ["unembed.W_Q", "blocks.0.mlp.W_Q", "blocks.0.attn.W_in", "blocks.0.attn.experts.3.W_Q", "blocks.x.attn.W_Q",
     "blocks.007.attn.W_Q", "blocks.\u0663.attn.W_Q", "foo", ""],
)  # fmt: skip
def test_a_key_that_no_model_has_is_refused(kinds, tmp_path, key):
    load, tensors, fields = kinds["engram"]
    weight = {f"tensors/{key}": tensors["tensors/blocks.0.mlp.W_in"], f"weight_norms/{key}": torch.ones(1).double()}
    forge(tmp_path / "it", "engram", weight, json.dumps({**fields, "keys": [key]}))
    with pytest.raises(ValueError, match="it does not hold"):
        load(tmp_path / "it")
    load, tensors, fields = kinds["statistics"]
    forge(tmp_path / "it", "statistics", tensors, json.dumps({**fields, "keys": [key]}))
    with pytest.raises(ValueError, match="it does not hold"):
        load(tmp_path / "it")


def test_a_bias_without_its_weight_is_refused(kinds, tmp_path):
    load, tensors, fields = kinds["engram"]
    forge(tmp_path / "it", "engram", tensors, json.dumps({**fields, "keys": ["blocks.0.attn.b_Q"]}))
    with pytest.raises(ValueError, match=r"it does not hold.*blocks\.0\.attn\.b_Q"):
        load(tmp_path / "it")


def test_a_fingerprint_sees_bits_shapes_and_dtypes():
    zeros = torch.zeros(4)
    distinct = [zeros, zeros.view(2, 2), zeros.bfloat16(), torch.full((4,), 1e-30)]
    assert len({storage.fingerprint([tensor]) for tensor in distinct}) == 4
    assert storage.fingerprint([zeros]) == storage.fingerprint([torch.zeros(4)])
