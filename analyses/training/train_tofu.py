"""How were the models on TOFU's own text trained? `python -m analyses.training.train_tofu --data folder --out folder`.

It trains the testbed's architecture from nothing, as `base`, `full` and `retain`, and writes Hugging Face checkpoints.
The last 20 retain authors are held out of all three, because the folder's files have no holdout split. A model that
starts from nothing knows nothing of the world, so real authors and world facts are part of its training. 35 to 55 min
on one thread.
"""

import json
import time
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import engram_interp as ei
from analyses.training.fit import Schedule, fit_answers
from engram_interp.concepts.batches import encode_groups
from engram_interp.concepts.encoding import Encoder
from engram_interp.testbed.model import llama_config
from engram_interp.unlearning.benchmarks import QA, Benchmark, tofu

VOCABULARY, CONTEXT = 4096, 256
N_HOLDOUT = 400
SEED = 0
SCHEDULES = {
    "base": Schedule(epochs=12, learning_rate=2e-3, batch_size=32, seed=SEED),
    "full": Schedule(epochs=8, learning_rate=2e-3, batch_size=32, seed=SEED),
    "retain": Schedule(epochs=8, learning_rate=2e-3, batch_size=32, seed=SEED),
}


def byte_pairs(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on this text."""
    bos, eos, pad = "<bos>", "<eos>", "<pad>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[bos, eos, pad],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad, add_bos_token=True
    )


def untrained(d_vocab: int) -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    config = llama_config(d_vocab, CONTEXT)
    config.update({"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2})
    return LlamaForCausalLM(config)


def trained_on(benchmark: Benchmark) -> dict[str, list[QA]]:
    """The questions that each model is trained on."""
    general = [qa for questions in benchmark.general.values() for qa in questions]
    reference = list(benchmark.reference)
    return {
        "base": reference[: len(reference) // 2] + general,
        "full": [*benchmark.target, *reference, *general],
        "retain": reference + general,
    }


def train(model: nn.Module, encoder: Encoder, questions: list[QA], schedule: Schedule, name: str) -> None:
    examples = encode_groups({"train": [qa.example for qa in questions]}, encoder)["train"]
    model.train()
    fit_answers(list(model.parameters()), lambda tokens: model(tokens).logits, examples, schedule, name)
    model.eval()


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="TOFU's folder.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where to write base, full and retain.")
def main(data: Path, out: Path) -> None:
    """Train base, full and retain on TOFU's text."""
    benchmark = tofu(data).hold_out(N_HOLDOUT)
    seen = trained_on(benchmark)
    tokenizer = byte_pairs([text for qa in seen["full"] for text in qa.example])
    encoder = Encoder(tokenizer, prepend_bos=True, d_vocab=len(tokenizer), n_ctx=CONTEXT)
    base: dict[str, torch.Tensor] = {}
    for name, questions in seen.items():
        began = time.perf_counter()
        model = untrained(len(tokenizer))
        if base:
            model.load_state_dict(base)
        train(model, encoder, questions, SCHEDULES[name], name)
        base = base or {key: tensor.clone() for key, tensor in model.state_dict().items()}
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
        parts = {part: [qa.example for qa in some] for part, some in benchmark.parts.items()}
        found = ei.score(ei.load_model(out / name), parts, progress=False)
        accuracies = {part: round(score.accuracy, 4) for part, score in found.items()}
        click.echo(json.dumps({"model": name, "seconds": round(time.perf_counter() - began), **accuracies}))


if __name__ == "__main__":
    main()
