"""A store holds what memory would, whatever happens while it is filled."""

import json
import logging
import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import engram_interp as ei
from engram_interp import Concept, Statistics, collect, decompose, diagnose, extract, localize
from engram_interp.models import adapt
from engram_interp.models.identity import weights_digest
from engram_interp.statistics.moments import MomentOfRows
from engram_interp.statistics.sharing.ranks import Ranks
from engram_interp.statistics.store import filling
from engram_interp.statistics.store.folder import Store
from engram_interp.statistics.store.index import Index
from tests.checkout import python
from tests.conftest import build, token_concept, tokens


def require_same(one: Statistics, other: Statistics) -> None:
    """Check that two statistics hold the same bits."""
    assert (one.info, one.keys, one.inputs, one.counts) == (other.info, other.keys, other.inputs, other.counts)
    for group in one.groups:
        for name in one.inputs:
            mine, others = one.groups[group][name], other.groups[group][name]
            assert torch.equal(mine.second, others.second), f"{group} of {name}"
            assert torch.equal(mine.first, others.first), f"{group} of {name}"
            assert (mine.count, mine.offered) == (others.count, others.offered)


def test_a_store_holds_the_same_bits_as_memory(any_model, tmp_path):
    concept = token_concept()
    in_memory = collect(any_model, concept)
    require_same(collect(any_model, concept, store=tmp_path / "a"), in_memory)
    require_same(Statistics.open(tmp_path / "a"), in_memory)


def test_maps_engrams_and_diagnoses_are_the_same_from_a_store(llama, tmp_path):
    concept = token_concept()
    in_memory, on_disk = collect(llama, concept), collect(llama, concept, store=tmp_path / "a")
    assert dict(localize(llama, on_disk)) == dict(localize(llama, in_memory))
    mine, others = extract(llama, on_disk), extract(llama, in_memory)
    assert all(torch.equal(mine[key], others[key]) for key in others)
    assert diagnose(llama, on_disk).to_frame().equals(diagnose(llama, in_memory).to_frame())
    assert mine.name == concept.name


@pytest.mark.parametrize("budget", ["26KB", "60KB", "1MB"])
def test_a_budget_makes_passes_and_changes_nothing(llama, tmp_path, budget):
    concept = token_concept()
    runs = []
    llama.embed.register_forward_hook(lambda _module, args, _out: runs.append(len(args[0])))
    in_memory = collect(llama, concept)
    once = sum(runs)
    planned = ei.plan(llama, in_memory.counts, budget=budget)
    runs[:] = []
    require_same(collect(llama, concept, store=tmp_path / "a", budget=budget), in_memory)
    assert sum(runs) == len(planned.passes) * once


def test_passes_end_in_the_layer_that_they_need(llama, tmp_path):
    ran: dict[int, int] = {0: 0, 1: 0}

    def count(layer):
        return lambda *_: ran.update({layer: ran[layer] + 1})

    passes = ei.plan(llama, 1000, budget="44KB", layers=[0, 1]).passes
    for layer in ran:
        llama.blocks[layer].register_forward_hook(count(layer))
    collect(llama, token_concept(), store=tmp_path / "a", budget="44KB", layers=[0, 1], batch_size=200)
    assert ran == {0: len(passes), 1: sum(any(".1." in name for name in names) for names in passes)}
    assert ran[1] < ran[0]


def test_a_target_of_few_tokens_is_kept_as_its_rows(llama, tmp_path):
    concept = Concept.from_tokens(tokens(1, 6), tokens(60, 9))
    found = collect(llama, concept, store=tmp_path / "a")
    assert all(isinstance(found.groups["target"][name], MomentOfRows) for name in found.inputs)
    require_same(found, collect(llama, concept))


def test_a_moment_takes_half_of_a_matrix_on_disk(llama, tmp_path):
    found = collect(llama, token_concept(), store=tmp_path / "a", components="in")
    numbers = 2 * 2 * (16 * 17 // 2 + 16 + 2)  # two layers and two groups: a triangle, a sum and two counts
    size = sum(path.stat().st_size for path in (tmp_path / "a").glob("*.safetensors"))
    assert found.inputs == ("blocks.0.mlp.in", "blocks.1.mlp.in")
    assert 8 * numbers < size < 8 * numbers + 2 * 1500  # beside a header each


def test_only_one_input_at_a_time_is_in_memory(llama, tmp_path):
    found = collect(llama, token_concept(), store=tmp_path / "a")
    first = found.groups["target"]["blocks.0.attn.in"]
    assert found.groups["target"]["blocks.0.attn.in"] is first
    store = found.groups["target"].store
    assert store._last[0] == "blocks.0.attn.in"
    found.groups["reference"]["blocks.1.mlp.in"]
    assert store._last[0] == "blocks.1.mlp.in"
    assert found.keep_bytes == 0


def test_a_finished_store_is_opened_and_not_filled_again(llama, tmp_path, monkeypatch):
    concept = token_concept()
    collect(llama, concept, store=tmp_path / "a")
    monkeypatch.setattr(type(adapt(llama)), "run", None)  # no pass runs
    require_same(collect(llama, concept, store=tmp_path / "a"), Statistics.open(tmp_path / "a"))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("batch_size", 3, "batch_size: None, now 3"),
        ("components", "Q", "matrices: .*W_U.*, now "),
        ("max_tokens", 50, "max_tokens: None, now 50"),
        ("until", 0.1, "until: None, now 0.1"),
    ],
)
def test_other_options_are_refused_with_what_differs(llama, tmp_path, option, value, said):
    collect(llama, token_concept(), store=tmp_path / "a")
    with pytest.raises(ValueError, match=said if option != "components" else "matrices"):
        collect(llama, token_concept(), store=tmp_path / "a", **{option: value})


def test_another_model_is_refused(llama, tmp_path):
    concept = token_concept()
    collect(llama, concept, store=tmp_path / "a")
    with pytest.raises(ValueError, match="model: .*weights: "):
        collect(build("llama", seed=3), concept, store=tmp_path / "a")
    with torch.no_grad():
        llama.blocks[1].mlp.W_in[0, 0] += 1  # the embedding, and so the fingerprint, stays
    with pytest.raises(ValueError, match=r"made with something else \(weights: "):
        collect(llama, concept, store=tmp_path / "a")


@pytest.mark.parametrize("side", ["target", "reference"])
def test_other_examples_are_refused_by_side(llama, tmp_path, side):
    concept = token_concept()
    collect(llama, concept, store=tmp_path / "a")
    other = replace(concept, **{side: [*getattr(concept, side)[:-1], token_concept(seed=9).target[0]]})
    with pytest.raises(ValueError, match=f"examples of {side} are not those"):
        collect(llama, other, store=tmp_path / "a")


def test_more_examples_are_refused_as_well_as_fewer(llama, tmp_path, every_batch):
    concept = Concept.from_tokens(tokens(20, 6), tokens(40, 8))
    longer = Concept.from_tokens(tokens(20, 6), torch.cat([tokens(40, 8), tokens(40, 8, seed=9)]))
    collect(llama, concept, store=tmp_path / "a", **every_batch)
    with pytest.raises(ValueError, match="examples of reference are not those"):
        collect(llama, longer, store=tmp_path / "a", **every_batch)
    # After the first of several passes too.
    interrupted(llama, concept, tmp_path / "b", 12, budget="60KB", **every_batch)
    assert Index.read(tmp_path / "b").n_batches is not None
    with pytest.raises(ValueError, match="examples of reference are not those"):
        collect(llama, longer, store=tmp_path / "b", budget="60KB", **every_batch)


def test_every_bit_of_the_weights_counts_and_their_place(tmp_path):
    torch.manual_seed(0)
    linear = nn.Linear(64, 64, bias=False).bfloat16()
    before = weights_digest(linear)
    with torch.no_grad():
        linear.weight[[0, 1]] = linear.weight[[1, 0]].clone()
    assert weights_digest(linear) != before
    norm = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).eval()
    before = weights_digest(norm)
    norm[1].running_mean += 3
    assert weights_digest(norm) != before


def test_threads_do_not_change_what_a_model_is(llama):
    before, threads = weights_digest(llama), torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        assert weights_digest(llama) == before
    finally:
        torch.set_num_threads(threads)


def test_names_of_arguments_are_part_of_the_examples(tmp_path):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(y)

    torch.manual_seed(0)
    model, p, q = Two(), torch.randn(30, 4), torch.randn(30, 4)
    collect(model, Concept.from_batches([{"x": p, "y": q}], [{"x": q, "y": p}]), store=tmp_path / "a")
    with pytest.raises(ValueError, match="examples of target and reference"):
        collect(model, Concept.from_batches([{"y": p, "x": q}], [{"y": q, "x": p}]), store=tmp_path / "a")


def test_files_of_others_are_left_alone(llama, tmp_path, every_batch):
    (tmp_path / "a").mkdir()
    extract(llama, token_concept()).save(tmp_path / "a" / "engram.safetensors")
    with pytest.raises(FileExistsError, match=r"engram\.safetensors"):
        collect(llama, token_concept(), store=tmp_path / "a")
    interrupted(llama, token_concept(), tmp_path / "b", 10, **every_batch)
    extract(llama, token_concept()).save(tmp_path / "b" / "engram.safetensors")
    collect(llama, token_concept(), store=tmp_path / "b", **every_batch)
    assert (tmp_path / "b" / "engram.safetensors").is_file()


def test_a_plain_module_has_a_budget_too(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
    concept = Concept.from_batches([torch.randn(300, 6)], [torch.randn(300, 6) for _ in range(3)])
    planned = ei.plan(model, {"target": 300, "reference": 900}, budget="98.5KB", flops=1e9)
    assert len(planned.passes) == 2
    require_same(collect(model, concept, store=tmp_path / "a", budget="98.5KB"), collect(model, concept))
    once = Concept.from_batches([torch.randn(300, 6)], iter([torch.randn(300, 6)] * 3))
    with pytest.raises(ValueError, match="reference come from an iterator"):
        collect(model, once, store=tmp_path / "b", budget="98.5KB")


def test_a_relative_store_is_found_from_elsewhere(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = collect(llama, token_concept(), store="here")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    localize(llama, found)


def test_a_file_that_is_gone_is_named_by_the_call_that_would_go_on(llama, tmp_path):
    collect(llama, token_concept(), store=tmp_path / "a")
    path = shards(tmp_path / "a")[1]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        collect(llama, token_concept(), store=tmp_path / "a")


def test_a_path_that_is_no_folder_is_refused(llama, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="file is a file"):
        collect(llama, token_concept(), store=tmp_path / "file")
    with pytest.raises(ValueError, match="empty path"):
        collect(llama, token_concept(), store="")


def test_a_whole_number_is_a_width_too(llama, tmp_path):
    options = {"until": 1, "batch_size": 8, "max_tokens": 500}
    require_same(
        collect(llama, token_concept(), store=tmp_path / "a", **options), collect(llama, token_concept(), **options)
    )


def test_a_store_is_not_written_over(llama, tmp_path):
    collect(llama, token_concept(), store=tmp_path / "a")
    with pytest.raises(FileExistsError, match="resume=True"):
        collect(llama, token_concept(), store=tmp_path / "a", resume=False)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        collect(llama, token_concept(), store=tmp_path / "b")


def test_a_second_writer_is_refused(llama, tmp_path):
    with (
        Store.writing(tmp_path / "a", {"groups": ["target"]}, ["x"], resume=True),
        pytest.raises(RuntimeError, match="another process writes"),
    ):
        collect(llama, token_concept(), store=tmp_path / "a")
    # The lock is gone with the writer; what it began was something else.
    with pytest.raises(ValueError, match="made with something else"):
        collect(llama, token_concept(), store=tmp_path / "a")


def interrupted(model: nn.Module, concept: Concept, folder: Path, after: int, **options) -> None:
    """Fill a store, and fail after so many batches."""
    adapter_class, seen = type(adapt(model)), []
    whole = adapter_class.run

    def run(self, batch, inputs, record):
        seen.append(batch)
        if len(seen) > after:
            raise KeyboardInterrupt
        return whole(self, batch, inputs, record)

    adapter_class.run = run
    try:
        with pytest.raises(KeyboardInterrupt):
            collect(model, concept, store=folder, **options)
    finally:
        adapter_class.run = whole


@pytest.fixture
def every_batch(monkeypatch):
    """A checkpoint after every batch."""
    monkeypatch.setattr(filling, "LEAST_SHARE", 0)
    return {"batch_size": 8, "checkpoint_every": 0, "progress": False}


@pytest.mark.parametrize("after", [0, 1, 4, 11, 17])
def test_an_interrupted_run_goes_on_to_the_same_bits(llama, tmp_path, every_batch, after):
    concept = token_concept()
    interrupted(llama, concept, tmp_path / "a", after, budget="60KB", **every_batch)
    found = collect(llama, concept, store=tmp_path / "a", budget="60KB", **every_batch)
    require_same(found, collect(llama, concept, batch_size=8))


def test_a_resumed_run_does_not_run_what_was_summed(llama, tmp_path, every_batch):
    concept = token_concept()
    interrupted(llama, concept, tmp_path / "a", 10, **every_batch)
    runs = []
    llama.embed.register_forward_hook(lambda _module, args, _out: runs.append(len(args[0])))
    collect(llama, concept, store=tmp_path / "a", **every_batch)
    assert len(runs) == 15 - 10


def test_other_examples_are_refused_in_the_middle_too(llama, tmp_path, every_batch):
    concept = token_concept()
    interrupted(llama, concept, tmp_path / "a", 10, **every_batch)
    other = replace(concept, target=concept.target[::-1])
    with pytest.raises(ValueError, match="examples of target are not those"):
        collect(llama, other, store=tmp_path / "a", **every_batch)


def test_a_smaller_budget_gives_up_a_pass_that_it_does_not_hold(llama, tmp_path, every_batch, caplog):
    concept = token_concept()
    interrupted(llama, concept, tmp_path / "a", 10, **every_batch)
    with caplog.at_level(logging.WARNING, "engram_interp"):
        found = collect(llama, concept, store=tmp_path / "a", budget="60KB", **every_batch)
    assert "starts over" in caplog.text
    require_same(found, collect(llama, concept, batch_size=8))


def test_an_unfinished_store_is_not_opened(llama, tmp_path, every_batch):
    interrupted(llama, token_concept(), tmp_path / "a", 10, **every_batch)
    with pytest.raises(ValueError, match="0 of 9 inputs"):
        Statistics.open(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Statistics.open(tmp_path / "nowhere")


def test_files_that_no_index_names_are_removed(llama, tmp_path, every_batch):
    interrupted(llama, token_concept(), tmp_path / "a", 10, **every_batch)
    (tmp_path / "a" / "00003.after-99.safetensors").write_bytes(b"left over")
    collect(llama, token_concept(), store=tmp_path / "a", **every_batch)
    named = Index.read(tmp_path / "a").files
    assert {path.name for path in (tmp_path / "a").glob("*.safetensors")} == named


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize("harm", ["truncated", "flipped", "gone", "swapped"])
def test_a_harmed_file_is_named(llama, tmp_path, harm):
    found = collect(llama, token_concept(), store=tmp_path / "a")
    path = shards(tmp_path / "a")[2]
    content = path.read_bytes()
    if harm == "truncated":
        path.write_bytes(content[:-20])
    elif harm == "flipped":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 4]) + content[-8:])
    elif harm == "gone":
        path.unlink()
    else:
        shutil.copy(shards(tmp_path / "a")[4], path)
    with pytest.raises((ValueError, FileNotFoundError), match=path.name):
        localize(llama, Statistics.open(tmp_path / "a"))
    assert found.inputs[2] == "blocks.0.mlp.in"


def test_a_harmed_checkpoint_is_named(llama, tmp_path, every_batch):
    interrupted(llama, token_concept(), tmp_path / "a", 10, **every_batch)
    path = shards(tmp_path / "a")[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=path.name):
        collect(llama, token_concept(), store=tmp_path / "a", **every_batch)


@pytest.mark.parametrize("harm", ["cut", "changed", "nested", "another version"])
def test_a_harmed_index_is_named(llama, tmp_path, harm):
    collect(llama, token_concept(), store=tmp_path / "a")
    path = tmp_path / "a" / "index.json"
    text = path.read_text()
    if harm == "cut":
        path.write_text(text[:-30])
    elif harm == "nested":
        path.write_text("[" * 100_000)
    elif harm == "changed":
        path.write_text(text.replace("blocks.0.mlp.in", "blocks.9.mlp.in"))
    else:
        content = json.loads(text)["content"] | {"version": "7"}
        checksum = __import__("hashlib").sha256(json.dumps(content).encode()).hexdigest()
        path.write_text(json.dumps({"checksum": checksum, "content": content}))
    with pytest.raises(ValueError, match=r"index\.json.*(cut short|altered|version 7)"):
        Statistics.open(tmp_path / "a")


LIMITED = """
import resource, signal, sys
from engram_interp import collect
from tests.conftest import build, token_concept
limit = int(sys.argv[2])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
collect(build("llama"), token_concept(), store=sys.argv[1], batch_size=8, progress=False)
"""


def test_a_file_that_cannot_be_written_is_an_error_that_names_it_and_nothing_is_lost(llama, tmp_path):
    ended = python("-c", LIMITED, str(tmp_path / "a"), "3000")
    assert ended.returncode != 0
    assert "OSError" in ended.stderr
    assert str(tmp_path / "a") in ended.stderr.splitlines()[-1]
    found = collect(llama, token_concept(), store=tmp_path / "a", batch_size=8, progress=False)
    require_same(found, collect(llama, token_concept(), batch_size=8))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 40 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_an_error_and_the_store_goes_on_when_there_is_room(llama, tmp_path, small_disk):
    with pytest.raises(OSError, match=r"No space left|space"):
        collect(llama, token_concept(), store=small_disk / "a", budget="30KB")
    begun = len(Index.read(small_disk / "a").done)
    assert 0 < begun < 9
    shutil.copytree(small_disk / "a", tmp_path / "a", ignore=shutil.ignore_patterns(".*"))
    found = collect(llama, token_concept(), store=tmp_path / "a", budget="30KB")
    require_same(found, collect(llama, token_concept()))


@pytest.mark.slow
def test_killed_at_twenty_random_instants_it_ends_in_the_same_bits(tmp_path):
    seed = random.SystemRandom().randrange(99)
    ended = python("-m", "tests.statistics.store.killed", str(tmp_path / "a"), "20", str(seed))
    assert not ended.returncode, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["ended"] == 1
    assert told["killed"] >= 10
    assert told["checkpoints"] >= 3
    expected = collect(build("llama"), token_concept(n=160), batch_size=1, progress=False)
    require_same(Statistics.open(tmp_path / "a"), expected)


def test_a_budget_needs_a_store(llama):
    with pytest.raises(ValueError, match="budget needs store"):
        collect(llama, token_concept(), budget="1GB")


@pytest.mark.parametrize("options", [{"store": "somewhere"}, {"max_tokens": 4}])
def test_options_of_collecting_do_not_go_with_statistics(llama, options):
    with pytest.raises(TypeError, match=next(iter(options))):
        localize(llama, collect(llama, token_concept()), **options)


def test_a_null_of_sets_does_not_go_with_a_store(llama, tmp_path):
    with pytest.raises(ValueError, match="resampled"):
        localize(llama, token_concept(), null="resampled", store=tmp_path / "a")
    assert localize(llama, token_concept(), store=tmp_path / "a").null == "analytic"


def test_sums_may_be_kept_on_another_device(llama):
    concept = token_concept()
    require_same(collect(llama, concept, storage_device="cpu"), collect(llama, concept))


def test_groups_are_collected_and_decomposed_one_input_at_a_time(llama, tmp_path):
    one, other = token_concept(), token_concept(seed=5)
    groups = {"A": one.target, "B": one.reference, "rest": other.reference}
    statistics = collect(llama, groups, store=tmp_path / "a")
    assert list(statistics.groups) == ["A", "B", "rest"]
    found, expected = decompose(llama, statistics), decompose(llama, groups)
    for name in groups:
        mine, others = found[name], expected[name]
        assert all(torch.allclose(mine[key], others[key], atol=1e-6) for key in others)
    assert found.counts == expected.counts
    assert not found._totals
    with pytest.raises(ValueError, match="no group 'target', only A, B, rest"):
        localize(llama, statistics)


def test_groups_need_names(llama):
    with pytest.raises(TypeError, match="names"):
        collect(llama, {})
    with pytest.raises(TypeError, match="positions|counts"):
        collect(llama, token_concept(), positions="all")


def test_a_plain_module_has_a_store_too(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    batches = [torch.randn(30, 6) for _ in range(4)]
    concept = Concept.from_batches(batches[:1], batches[1:])
    in_memory, on_disk = collect(model, concept), collect(model, concept, store=tmp_path / "a")
    require_same(on_disk, in_memory)
    assert on_disk.reads == in_memory.reads
    torch.manual_seed(0)
    fresh = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    opened = collect(fresh, concept, store=tmp_path / "a")
    assert dict(localize(fresh, opened)) == dict(localize(model, in_memory))


def test_there_is_one_process_without_a_group():
    assert Ranks.here() == Ranks(0, 1)
    assert Ranks.here().gathered(3) == [3]
    assert Ranks.here().merged({"a": 1}) == {"a": 1}
