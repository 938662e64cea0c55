"""How was the GPT-2-style model of the authors trained? `python -m analyses.training.train_gpt2 --out folder`.

Six layers of width 192 with LayerNorm, biases, learned positions and an unembedding that is the embedding: all that the
testbed's own model has not. It learns the same authors and world facts, and is written as a Hugging Face checkpoint.
Ten minutes on one thread.
"""

import json
from pathlib import Path

import click
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import engram_interp as ei
from analyses.training.fit import Schedule, fit_answers
from engram_interp.concepts.batches import encode_groups
from engram_interp.concepts.encoding import Encoder
from engram_interp.testbed.model import TOKENIZER

SEED = 0
CONTEXT = 64
SCHEDULE = Schedule(epochs=30, learning_rate=2e-3, batch_size=64, seed=SEED)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where to write the checkpoint.")
def main(out: Path) -> None:
    """Train a GPT-2-style model on the testbed's authors."""
    tokenizer, corpus = AutoTokenizer.from_pretrained(TOKENIZER), ei.testbed.authors()
    torch.manual_seed(SEED)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=192, n_layer=6, n_head=6,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.06,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    encoder = Encoder(tokenizer, prepend_bos=True, d_vocab=len(tokenizer), n_ctx=CONTEXT)
    pairs = [*corpus.examples, *corpus.world_examples]
    examples = encode_groups({"train": pairs}, encoder)["train"]
    model.train()
    fit_answers(list(model.parameters()), lambda tokens: model(tokens).logits, examples, SCHEDULE, "gpt2")
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    parts = {"authors": corpus.examples, "holdout": [one for author in corpus.holdout for one in author.examples]}
    found = ei.score(ei.load_model(out), parts, progress=False)
    click.echo(json.dumps({part: round(score.accuracy, 4) for part, score in found.items()}))


if __name__ == "__main__":
    main()
