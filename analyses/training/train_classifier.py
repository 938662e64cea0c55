"""Train the testbed's image classifier: `python -m analyses.training.train_classifier`, a minute on one thread."""

import hashlib
import json

import torch
from safetensors.torch import save
from torch import nn

from engram_interp.testbed.classifier import CHECKPOINT, NAME, Classifier
from engram_interp.testbed.model import MANIFEST
from engram_interp.testbed.pictures import pictures

EPOCHS, RATE, BATCH = 40, 3e-3, 64


def train(seed: int = 0) -> nn.Module:
    """A classifier trained on the training pictures."""
    torch.manual_seed(seed)
    model, (x, y) = Classifier(), pictures("train").tensors
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for some in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[some]), y[some]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, split: str) -> float:
    """The share of pictures that are right."""
    x, y = pictures(split).tensors
    return round(float((model(x).argmax(1) == y).double().mean()), 4)


def main() -> None:
    """Train, save, and write the manifest."""
    model = train()
    weights = save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    CHECKPOINT.write_bytes(weights)
    manifest = json.loads(MANIFEST.read_text())
    manifest[NAME] = {
        "sha256": hashlib.sha256(weights).hexdigest(),
        "bytes": len(weights),
        "epochs": EPOCHS,
        "scores": {split: accuracy(model, split) for split in ("train", "test")},
    }
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n")
    print(manifest[NAME])


if __name__ == "__main__":
    main()
