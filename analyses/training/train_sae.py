"""How was the testbed's SAE trained? `python -m analyses.training.train_sae` makes it with sae-lens, in 12 minutes.

It is trained on the residual stream behind the first block of `full`, at every token of the model's training text
except BOS.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version

import torch
from jaxtyping import Float
from sae_lens import SAE, SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

from analyses import results
from engram_interp.concepts.batches import batches, encode_groups
from engram_interp.models import adapt_language
from engram_interp.sae.reconstruction import reconstruction
from engram_interp.testbed import authors, load
from engram_interp.testbed.sae import FOLDER, MANIFEST, WEIGHTS

SEED = 0
HOOK = "blocks.0.hook_resid_post"
D_SAE = 3072
K = 10
STEPS = 2500
BATCH_SIZE = 1024
LEARNING_RATE = 1e-3


def activations() -> Float[Tensor, "n d_model"]:
    adapter = adapt_language(load("full"))
    rows = []
    for batch in batches(encode_groups({"corpus": authors().examples}, adapter.encoder), 256, None, "reading"):
        text = batch.attention_mask & (batch.tokens != adapter.encoder.unread[0])
        rows.append(adapter.read(batch, HOOK)[text])
    return torch.cat(rows)


def shuffled(X: Float[Tensor, "n d_model"]) -> Iterator[Float[Tensor, "batch d_model"]]:
    generator = torch.Generator().manual_seed(SEED)
    while True:
        order = torch.randperm(len(X), generator=generator)
        for start in range(0, len(X) - BATCH_SIZE + 1, BATCH_SIZE):
            yield X[order[start : start + BATCH_SIZE]]


def train(X: Float[Tensor, "n d_model"]) -> TopKTrainingSAE:
    metadata = SAEMetadata(model_name="testbed:full", hook_name=HOOK, prepend_bos=True)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=X.shape[1], d_sae=D_SAE, k=K, metadata=metadata))
    sae.b_dec.data.copy_(X.mean(0))
    options = SAETrainerConfig(
        total_training_samples=STEPS * BATCH_SIZE,
        train_batch_size_samples=BATCH_SIZE,
        lr=LEARNING_RATE,
        lr_end=LEARNING_RATE / 10,
        lr_warm_up_steps=100,
        lr_decay_steps=STEPS // 3,
        dead_feature_window=200,
    )
    return SAETrainer(options, sae, shuffled(X)).fit()


def main() -> None:
    """Train the SAE, and write it and its manifest into the package."""
    torch.manual_seed(SEED)
    began = time.perf_counter()
    train(activations()).save_inference_model(FOLDER)
    SAE.load_from_disk(FOLDER, dtype="float16").save_model(FOLDER)
    seconds = time.perf_counter() - began
    data = WEIGHTS.read_bytes()
    manifest = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "seed": SEED,
        "seconds": round(seconds, 1),
        "torch": torch.__version__,
        "sae_lens": version("sae-lens"),
        "platform": results.machine(),
        "reconstruction": asdict(
            reconstruction(load("full"), SAE.load_from_disk(FOLDER, dtype="float32"), authors().examples)
        ),
    }
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps(manifest, indent=2))


if __name__ == "__main__":
    main()
