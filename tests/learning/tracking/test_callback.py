"""The callback leaves training as it is: the same bits with it and without it, in a Trainer and in a bare loop."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import AutoTokenizer, LlamaForCausalLM, Trainer, TrainingArguments

import engram_interp as ei
from engram_interp.learning.tracking import callback as module
from engram_interp.models.loading import as_language_model
from engram_interp.testbed.model import TOKENIZER
from tests import huggingface
from tests.conftest import build, token_concept

OPTIONS = dict(null="analytic", progress=False)


class Lines(Dataset):
    """Lines of the testbed's text as a trainer takes them."""

    def __init__(self, tokenizer, n: int = 32) -> None:
        pairs = [pair for one in ei.testbed.authors().retain90[:4] for pair in one.examples][:n]
        found = tokenizer([" ".join(pair) for pair in pairs], padding="max_length", max_length=24, truncation=True)
        self.rows = [
            {
                "input_ids": torch.tensor(ids),
                "attention_mask": torch.tensor(mask),
                "labels": torch.tensor([token if real else -100 for token, real in zip(ids, mask, strict=True)]),
            }
            for ids, mask in zip(found["input_ids"], found["attention_mask"], strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return self.rows[i]


def concept() -> ei.Concept:
    people = ei.testbed.authors().retain90
    return ei.Concept(people[0].examples[:4], [pair for one in people[1:4] for pair in one.examples], "first")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny Llama with dropout, saved to disk with the testbed's tokenizer."""
    folder, tokenizer = tmp_path_factory.mktemp("llama"), AutoTokenizer.from_pretrained(TOKENIZER)
    hf = huggingface.make("Llama", vocab_size=len(tokenizer), attention_dropout=0.1)
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained(checkpoint: Path, out: Path, callback=None) -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    arguments = TrainingArguments(
        output_dir=str(out), max_steps=6, per_device_train_batch_size=8, learning_rate=1e-2, report_to=[], seed=3,
        save_strategy="no", logging_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    made = [] if callback is None else [callback(model) if callable(callback) else callback]
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Lines(tokenizer), processing_class=tokenizer, callbacks=made
    )
    trainer.train()
    return model


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_a_trainer_ends_with_the_same_bits_and_the_map_of_localize(checkpoint, tmp_path):
    tracker = ei.EngramCallback(concept(), every=2, max_share=1e9, folder=tmp_path / "track", **OPTIONS)
    plain, tracked = trained(checkpoint, tmp_path), trained(checkpoint, tmp_path, tracker)
    assert same(plain, tracked)
    assert list(tracked.state_dict()) == list(plain.state_dict())
    found = tracker.trajectory
    assert found.steps["step"].tolist() == [2, 4, 6]
    assert not found.failed
    last = as_language_model(tracked, AutoTokenizer.from_pretrained(checkpoint))
    assert found.map().table.equals(ei.localize(last, concept(), **OPTIONS).table)
    assert found.to_frame().query("step == 6")["moved"].min() > 0
    assert tracker.share > 0


def test_streaming_reads_the_training_batches_and_changes_no_bit(checkpoint, tmp_path):
    def streaming(model: nn.Module) -> ei.StreamingEngramCallback:
        made.append(
            ei.StreamingEngramCallback(
                model, {"low": lambda given: given["input_ids"] < 100}, every=3, half_life=2, max_share=1e9,
            )
        )  # fmt: skip
        return made[0]

    made: list[ei.StreamingEngramCallback] = []
    plain, tracked = trained(checkpoint, tmp_path), trained(checkpoint, tmp_path, streaming)
    assert same(plain, tracked)
    assert not tracked._forward_hooks
    assert not tracked._forward_pre_hooks
    found = made[0].trajectory
    assert found.steps["step"].tolist() == [3, 6]
    assert not found.failed
    assert (found.map().to_frame()["wnorm"] > 0).all()
    assert "model.layers.0.mlp.up_proj.weight" in found.map()


def loop(tracker=None, steps: int = 8) -> nn.Module:
    """A bare loop, whose batches are drawn and whose activations are dropped at random."""
    torch.manual_seed(0)
    model = build("llama")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        model(torch.randint(50, (4, 7)), return_type="loss").backward()
        optimizer.step()
        if tracker is not None:
            tracker.step(model, step)
    if tracker is not None:
        tracker.finish(model, steps)
    return model


@pytest.mark.parametrize(
    "options", [dict(null="analytic"), dict(null="resampled", draws=19), dict(groups=list(range(24)), gradient=True)]
)
def test_a_bare_loop_ends_with_the_same_bits_whatever_is_measured(options):
    asked = ei.Concept(token_concept(6).target, token_concept(12).reference, "odd")
    tracker = ei.EngramCallback(asked, every=3, max_share=1e9, progress=False, **options)
    tracked, plain = loop(tracker), loop()
    assert same(tracked, plain)
    assert all(
        (p.grad is None) == (q.grad is None) for p, q in zip(tracked.parameters(), plain.parameters(), strict=True)
    )
    assert not tracker.trajectory.failed
    assert tracker.trajectory.steps["step"].tolist() == [3, 6, 8]


class Clock:
    """Time that passes when somebody says so."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_measurements_are_left_out_so_that_they_take_no_more_than_their_share(monkeypatch, caplog):
    clock, model = Clock(), build("llama")
    monkeypatch.setattr(module, "time", clock)
    tracker = ei.EngramCallback(token_concept(6), every=1, max_share=0.1, **OPTIONS)

    def measure(*_: object) -> None:
        clock.now += 2.0

    monkeypatch.setattr(tracker, "_measure_now", measure)
    for step in range(1, 101):
        clock.now += 1.0
        tracker.step(model, step)
        assert tracker.share <= 0.1 or len(tracker.skipped) + 1 == step or step == 1
    # 2 s each: the first at once, one more when 40 s of training have passed, and then every 20 s.
    taken = [step for step in range(1, 101) if step not in tracker.skipped]
    assert taken == [1, 41, 61, 81]
    assert tracker.share == pytest.approx(8 / 99, abs=0.01)
    with caplog.at_level(logging.INFO, "engram_interp"):
        tracker.finish(model, 100)
    assert "96" in caplog.text


def test_a_measurement_that_fails_does_not_end_training(caplog):
    model, tracker = build("llama"), ei.EngramCallback(token_concept(6), every=1, max_share=1e9, **OPTIONS)
    with torch.no_grad():
        model.embed.W_E.fill_(float("inf"))
    with caplog.at_level(logging.WARNING, "engram_interp"):
        tracker.step(model, 1)
    assert "step 1" in caplog.text
    with pytest.raises(ValueError, match="step 1"):
        assert tracker.trajectory


def test_modes_and_hooks_are_left_as_they_were():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    model[1].eval()
    asked = ei.Concept.from_batches([torch.randn(20, 4)], [torch.randn(40, 4)])
    before = torch.get_rng_state()
    ei.EngramCallback(asked, every=1, **OPTIONS).step(model, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert [one.training for one in model] == [True, False, True]
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


@pytest.mark.parametrize(
    ("options", "said"), [(dict(every=0), "0"), (dict(max_share=0), "0"), (dict(max_share=-1.0), "-1")]
)
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        ei.EngramCallback(token_concept(6), **options)


def test_a_sharded_model_is_refused():
    model = build("llama")
    model.embed.W_E.data = torch.zeros(0)
    with pytest.raises(RuntimeError, match="embed.W_E"):
        ei.EngramCallback(token_concept(6), every=1).step(model, 1)


def test_a_measurement_inside_autocast_is_in_the_models_own_precision():
    model, asked = build("llama"), token_concept(6)
    tracker = ei.EngramCallback(asked, every=1, **OPTIONS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tracker.step(model, 1)
    assert tracker.trajectory.map().table.equals(ei.localize(model, asked, **OPTIONS).table)


@pytest.mark.parametrize("error", [OSError, KeyError, TypeError])
def test_training_goes_on_whatever_goes_wrong(monkeypatch, error):
    tracker = ei.EngramCallback(token_concept(6), every=1, **OPTIONS)

    def fail(*_: object) -> None:
        raise error("full")

    monkeypatch.setattr(tracker, "_measure_now", fail)
    tracker.step(build("llama"), 1)
    assert "full" in tracker._tracker.failed["step 1"]


def test_one_callback_serves_two_trainings_and_its_clock_stops():
    model, tracker = build("llama"), ei.EngramCallback(token_concept(6), every=2, max_share=1e9, **OPTIONS)
    tracker.step(model, 2)
    tracker.finish(model, 2)
    share = tracker.share
    assert tracker.share == share
    other = ei.EngramCallback(token_concept(6), every=2, max_share=1e9, folder=tracker._tracker.folder, **OPTIONS)
    with pytest.raises(ValueError, match="another training"):
        other.step(model, 1)


def test_reading_batches_is_counted_and_bounded(monkeypatch):
    clock, net = Clock(), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).train()
    monkeypatch.setattr(module, "time", clock)
    tracker = ei.StreamingEngramCallback(net, {"positive": lambda x: x[:, 0] > 0}, every=1000, max_share=0.1)
    for step in range(1, 101):
        clock.now += 1.0
        before = tracker._moments.n_batches
        net(torch.randn(8, 4))
        if tracker._moments.n_batches > before:
            tracker._moments.seconds, clock.now = float(tracker._moments.n_batches), clock.now + 1.0
        tracker.step(net, step)
    # A second a batch: three at first, and then one in ten seconds of training.
    assert 9 <= tracker._moments.n_batches <= 11
    assert tracker.share <= 0.11
