"""Train a feature network on the data set itself: self-supervised, and by class where there are.

Three tasks share the features. Two views of an image must be told from all other images (SimCLR,
Chen et al. 2020), views that differ by place, size and mirroring only, because colour and detail
are what an evaluation must see. Damage must be named: blur, noise, blocks, or none. And the class
must be, where images have one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ldm.core import keyed
from ldm.data.example import Source
from ldm.data.pixels import normalise, pixels_of
from ldm.evaluation.features.network import (
    FeatureNetwork,
    random_feature_network,
    save_feature_network,
)

TEMPERATURE = 0.2
RESOLUTION = 64  # at most: what the features see


def views(x: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops of 50 to 100 % of the side, mirrored half of the time; (B, 3, R, R)."""
    u = torch.rand(4, len(x), generator=generator)
    scale = 0.5 + 0.5 * u[0]
    shift = (1 - scale) * (2 * u[1:3] - 1)
    flip = (u[3] < 0.5).float() * 2 - 1
    zero = torch.zeros_like(scale)
    rows = torch.stack([scale * flip, zero, shift[0], zero, scale, shift[1]], 1)
    grid = F.affine_grid(rows.view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid.to(x), padding_mode="reflection", align_corners=False)


def _blurred(x: Tensor, strength: float, noise: Tensor) -> Tensor:
    radius = torch.arange(-4, 5, device=x.device)
    kernel = (-((radius / (0.5 + 2 * strength)) ** 2) / 2).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, 1, 9).expand(3, 1, 1, 9)
    across = F.conv2d(F.pad(x, (4, 4, 0, 0), mode="reflect"), kernel, groups=3)
    return F.conv2d(F.pad(across, (0, 0, 4, 4), mode="reflect"), kernel.mT, groups=3)


def _noised(x: Tensor, strength: float, noise: Tensor) -> Tensor:
    return x + (0.05 + 0.3 * strength) * noise


def _blocky(x: Tensor, strength: float, noise: Tensor) -> Tensor:
    coarse = F.avg_pool2d(x, 2 if strength < 0.5 else 4)
    return F.interpolate(coarse, size=x.shape[-2:], mode="nearest")


DAMAGE: Sequence[Callable[[Tensor, float, Tensor], Tensor]] = (
    lambda x, strength, noise: x,
    _blurred,
    _noised,
    _blocky,
)


def _contrast(a: Tensor, b: Tensor) -> Tensor:
    """NT-Xent (SimCLR, eq. 1) of projections (B, D) of two views."""
    z = F.normalize(torch.cat([a, b]), dim=1)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(a)))


class _Heads(nn.Module):
    def __init__(self, dimension: int, classes: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Linear(dimension, dimension), nn.SiLU(), nn.Linear(dimension, 64)
        )
        self.damage = nn.Linear(dimension, len(DAMAGE))
        self.label = nn.Linear(dimension, max(1, classes))


def _one_step(
    network: FeatureNetwork, heads: _Heads, x: Tensor, labels: Tensor, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Losses and accuracies of (contrast, damage, class) on a batch in [-1, 1]."""
    generator = keyed.generator(seed, "views", step)
    first, second, third = (views(x, generator) for _ in range(3))
    kinds = torch.arange(len(x)) % len(DAMAGE)
    noise = torch.randn(x.shape, generator=generator).to(x)
    for kind, damage in enumerate(DAMAGE):
        strength = keyed.uniform(seed, "strength", step, kind)
        third[kinds == kind] = damage(third[kinds == kind], strength, noise[kinds == kind])
    features = network(torch.cat([first, second, third.clamp(-1, 1)]))
    a, b, c = features.chunk(3)
    kinds = kinds.to(x.device)
    damaged, named = heads.damage(c), heads.label(torch.cat([a, b]))
    twice = torch.cat([labels, labels])
    known = twice >= 0
    losses = [
        _contrast(heads.projection(a), heads.projection(b)),
        F.cross_entropy(damaged, kinds),
        F.cross_entropy(named[known], twice[known]) if known.any() else named.sum() * 0,
    ]
    right = [
        (damaged.argmax(1) == kinds).cpu().double().mean(),
        (named.argmax(1) == twice)[known].cpu().double().mean(),
    ]
    return torch.stack(losses), torch.stack(right)


def train_features(
    source: Source,
    folder: Path,
    data_name: str,
    resolution: int,
    steps: int = 600,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> FeatureNetwork:
    """Train on `source`, save into `folder`, and return the network.

    Everything is keyed by `seed`: on one machine the same call gives the same network.
    """
    pixels, indices = pixels_of(source, min(resolution, RESOLUTION))
    labels = torch.tensor([-1 if (y := source.label(i)) is None else y for i in indices])
    network = random_feature_network(pixels.shape[-1], seed).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = _Heads(network.dimension, int(labels.max()) + 1).to(device)
    parameters = [*network.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    means = torch.full((5,), torch.nan, dtype=torch.float64)
    for step in tqdm(range(steps), desc="training features", unit="step", disable=not progress):
        chosen = torch.randperm(len(pixels), generator=keyed.generator(seed, "batch", step))[
            :batch_size
        ]
        x = normalise(pixels[chosen]).to(device)
        losses, right = _one_step(network, heads, x, labels[chosen].to(device), seed, step)
        optimizer.zero_grad()
        losses.sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        new = torch.cat([losses.detach().cpu().double(), right])
        means = torch.where(means.isnan(), new, means.lerp(new, 0.05))
    names = ("contrast_loss", "damage_loss", "label_loss", "damage_accuracy", "label_accuracy")
    figures = {k: round(v, 4) for k, v in zip(names, means.tolist(), strict=True) if v == v}
    facts = {"data": data_name, "fingerprint": source.fingerprint, "images": len(pixels)}
    network.eval().requires_grad_(False)
    save_feature_network(network, folder, {**facts, "steps": steps, "seed": seed, **figures})
    return network
