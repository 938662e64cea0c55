"""Which models? The paper's kinds, narrow enough for two cores; `--width` makes them as wide as the paper's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mlp(channels: int, size: int, n_classes: int, width: int = 256) -> nn.Module:
    """An MLP with two hidden layers."""
    d = channels * size * size
    return nn.Sequential(
        nn.Flatten(), nn.Linear(d, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, n_classes)
    )


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016)."""

    def __init__(self, d_in: int, d_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(d_in, d_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(d_out)
        self.conv2 = nn.Conv2d(d_out, d_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(d_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or d_in != d_out:
            self.shortcut = nn.Sequential(nn.Conv2d(d_in, d_out, 1, stride, bias=False), nn.BatchNorm2d(d_out))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(hidden + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small pictures. The paper's has `width=64`."""

    def __init__(self, channels: int, n_classes: int, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(Block(a, b, stride), Block(b, b, 1))
                for a, b, stride in zip(widths, widths[1:], (1, 2, 2, 2), strict=False)
            )
        )
        self.head = nn.Linear(8 * width, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """What the head reads."""
        return self.stages(self.stem(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ViT(nn.Module):
    """A vision transformer: patches, a class token, pre-norm blocks."""

    def __init__(
        self, channels: int, size: int, n_classes: int, width: int = 64, depth: int = 6, heads: int = 4, patch: int = 4
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """What the head reads."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.blocks(x)[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ConvAE(nn.Module):
    """The paper's autoencoder: 3x3 convolutions with 16 and 32 channels, and a bottleneck of 64 (App. B.2)."""

    def __init__(self, channels: int, size: int, width: int = 16, latent: int = 64) -> None:
        super().__init__()
        small = size // 4
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(2 * width * small * small, latent),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latent, 2 * width * small * small), nn.ReLU(), nn.Unflatten(1, (2 * width, small, small)),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class WAE(ConvAE):
    """A Wasserstein autoencoder: its codes are made to look like a normal distribution's by an MMD (App. B.2)."""

    def __init__(self, channels: int, size: int, width: int = 24, latent: int = 32) -> None:
        super().__init__(channels, size, width, latent)


def mmd(z: Tensor, prior: Tensor) -> Tensor:
    """`MMD^2` of codes and draws from the prior, with the inverse multiquadric kernels of Tolstikhin et al. 2018."""
    n, d = z.shape
    off = ~torch.eye(n, dtype=torch.bool, device=z.device)
    total = z.new_zeros(())
    for scale in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0):
        c = 2 * d * scale
        inside = sum((c / (c + torch.cdist(one, one).square()))[off].mean() for one in (z, prior))
        total = total + inside - 2 * (c / (c + torch.cdist(z, prior).square())).mean()
    return total
