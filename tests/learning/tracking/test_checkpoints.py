import pytest
import torch
from safetensors.torch import save_file

from engram_interp.learning.tracking.checkpoints import sources, step_in
from engram_interp.models.loading import load_model
from tests import huggingface
from tests.conftest import build
from tests.learning.tracking.interrupted import one_at_a_time


def listed(checkpoints, model=None, load=None):
    return list(sources(checkpoints, model, load))


def test_steps_are_given_or_in_a_name_or_a_place():
    one = build("llama")
    found = listed([(7, one), one, "runs/checkpoint-300", (12, lambda: one)])
    assert [source.step for source in found] == [7, 1, 300, 12]
    assert found[0].taken() is one
    assert found[3].taken() is one


def test_the_last_number_in_a_name_is_its_step():
    assert [step_in(name) for name in ("checkpoint-500", "v2/step_000010", "v2-final", "step3000.safetensors")] == [
        500, 10, 2, 3000,
    ]  # fmt: skip
    assert step_in("final") is None


def test_a_folder_is_read_in_the_order_of_steps(tmp_path):
    for step in (100, 20, 3):
        huggingface.make("Llama").save_pretrained(tmp_path / f"checkpoint-{step}")
    (tmp_path / "runs-1").mkdir()
    (tmp_path / "trainer_state.json").write_text("{}")
    found = listed(tmp_path, load=load_model)
    assert [source.step for source in found] == [3, 20, 100]
    assert "checkpoint-3" in found[0].name
    assert found[0].taken().cfg.n_layers == 2


def test_state_dicts_and_files_of_weights_go_into_copies_of_a_model(tmp_path):
    model, other = build("llama"), build("llama", seed=3)
    state = {name: one.clone() for name, one in other.state_dict().items()}
    save_file({name: one.contiguous() for name, one in state.items()}, tmp_path / "step-4.safetensors")
    for source in listed([(1, state), tmp_path / "step-4.safetensors"], model):
        loaded = source.taken()
        assert all(torch.equal(p, q) for p, q in zip(loaded.parameters(), other.parameters(), strict=True))
    assert not torch.equal(model.embed.W_E, other.embed.W_E)


def test_one_model_is_alive_at_a_time():
    alive = []
    for source in sources(one_at_a_time(alive), None, None):
        assert source.taken() is not None
    assert len(alive) == 3


@pytest.mark.parametrize(
    ("checkpoints", "error", "said"),
    [
        ([(1, "a"), (1, "b")], ValueError, "1"),
        ([(-1, "a")], ValueError, "-1"),
        ([(True, "a")], ValueError, "True"),
        ([("5", "a")], ValueError, "'5'"),
        ([3], TypeError, "int"),
        (7, TypeError, "int"),
        ({"a": 1}, TypeError, "dict"),
    ],
)
def test_what_is_no_checkpoint_is_refused(checkpoints, error, said):
    with pytest.raises(error, match=said):
        listed(checkpoints)


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoints"):
        listed(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        listed(tmp_path / "nowhere")


def test_a_state_dict_needs_a_model_of_its_shape():
    state = build("llama", d_mlp=20).state_dict()
    with pytest.raises(ValueError, match="model="):
        listed([(5, state)])[0].taken()
    with pytest.raises(ValueError, match="step 5"):
        listed([(5, state)], build("llama"))[0].taken()
