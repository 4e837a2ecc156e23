"""A feature extractor: a network, what it is fed, and a name that says so.

Figures from two extractors, or from two ways to resize, are not comparable, so both are part of the
name. Resizing is bicubic with antialiasing, in float, the same for real and for sampled images:
without antialiasing FID between tools differs by more than between models (Parmar et al. 2022).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.core.fingerprint import weight_hash

BATCH = 32  # images at once: fixed, because a network's last bits depend on it


@dataclass(frozen=True)
class Extractor:
    """Images uint8 (B, 3, H, W) → features (B, D), by any network on normalised pixels."""

    name: str
    network: nn.Module
    resolution: int | None  # pixels that the network sees; None takes images as they are
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    project: Callable[[Any, Tensor], Tensor] = lambda network, x: network(x)
    weights: str = field(init=False)

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)
        object.__setattr__(self, "weights", weight_hash(self.network))

    @property
    def label(self) -> str:
        """Everything that a figure from this extractor depends on, in a line."""
        size = f"{self.resolution} px" if self.resolution else "as they are"
        return f"{self.name} [{self.weights}] {size}, bicubic antialiased"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, D) float32, on the CPU."""
        device = next(self.network.parameters()).device
        x = images.to(device).float() / 255
        if self.resolution and x.shape[-2:] != (self.resolution, self.resolution):
            size = (self.resolution, self.resolution)
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (x.new_tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        return self.project(self.network, (x - mean) / std).float().cpu()

    def extract(self, images: Tensor | Iterable[Tensor]) -> Tensor:
        """Features (N, D) of images (N, 3, H, W), or of any number of (3, H, W) as they come."""
        parts: list[Tensor] = []
        waiting: list[Tensor] = []
        for image in images:
            waiting.append(image)
            if len(waiting) == BATCH:
                parts.append(self(torch.stack(waiting)))
                waiting = []
        if waiting:  # a full batch here too
            padded = waiting + waiting[-1:] * (BATCH - len(waiting))
            parts.append(self(torch.stack(padded))[: len(waiting)])
        return torch.cat(parts)
