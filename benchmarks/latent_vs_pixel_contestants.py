"""Who competes in latent_vs_pixel.py: what they are shown, their networks, how they are trained."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models import UNet2DModel
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from autoencoder.cache import LatentCache
from autoencoder.latents import decode
from autoencoder.model import load_autoencoder, standardize
from ldm.config import Config
from ldm.data.pixels import as_bytes, to_pixels
from ldm.data.source import Source
from ldm.diffusion.contract import Contract
from ldm.diffusion.denoise import denoiser
from ldm.diffusion.grids import trailing
from ldm.diffusion.loss import denoising_loss
from ldm.diffusion.plane import FLOW
from ldm.diffusion.samplers import ancestral
from ldm.diffusion.schedules import Flow
from ldm.training.ema import EMA

CORE = (128, 256, 256)  # widths of the U-Net; attention on all but the finest
OUTER = 64  # width of every stage around it that works on pixels


def now(device: str) -> float:
    """Seconds, once the device has done all that it was asked to do."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class Contestant:
    """One way to see the images: as what, through which network, and how to get pixels back."""

    name: str
    resolution: int
    shape: tuple[int, ...]  # (C, h, w) of one example
    outer: int  # stages around the core
    examples: Callable[[Tensor], Tensor]  # indices → x0 (B, C, h, w), on the device
    pixels: Callable[[Tensor], Tensor]  # x0 → images in [-1, 1]
    shift: float  # of the noise schedule, for the resolution (Esser et al. 2024, eq. 23)
    seconds: float = 0.0  # spent before the first step
    figures: dict[str, Any] = field(default_factory=dict)
    samples: Tensor | None = None

    def network(self) -> UNet2DModel:
        widths = (OUTER,) * self.outer + CORE
        plain = self.outer + 1
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=self.shape[-1],
            in_channels=self.shape[0],
            out_channels=self.shape[0],
            block_out_channels=widths,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * (len(CORE) - 1),
            up_block_types=("AttnUpBlock2D",) * (len(CORE) - 1) + ("UpBlock2D",) * plain,
            layers_per_block=2,
            attention_head_dim=32,
        )


class Trainer:
    """A rectified-flow model on a contestant's examples."""

    def __init__(self, contestant: Contestant, options: argparse.Namespace) -> None:
        self.contestant, self.device, self.options = contestant, options.device, options
        self.schedule = Flow(contestant.shift)
        self.network = Contract.of(self.schedule, FLOW).network(self.predict)
        self.unet: Any = contestant.network()
        self.unet.to(self.device)
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), lr=options.learning_rate)
        self.ema = EMA(self.unet, 0.999)
        self.generator = torch.Generator().manual_seed(0)
        self.steps = 0

    def predict(self, x: Tensor, label: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.options.bf16):
            return self.unet(x, label.expand(len(x))).sample.float()

    def step(self, images: int) -> None:
        indices = torch.randint(images, (self.options.batch,), generator=self.generator)
        x0 = self.contestant.examples(indices)
        eps = torch.randn(x0.shape, generator=self.generator).to(self.device)
        t = torch.rand(len(x0), generator=self.generator, dtype=torch.float64).to(self.device)
        loss = denoising_loss(self.network, self.schedule, FLOW, x0, eps, t).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * min(1, (self.steps + 1) / 100)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.ema.update(self.steps)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Images, uint8 (count, 3, R, R), on the CPU, from the EMA."""
        levels, images = trailing(self.schedule, self.options.sampling_steps), []
        generator = torch.Generator().manual_seed(1)
        with self.ema.applied():
            starts = range(0, count, self.options.batch)
            for start in tqdm(starts, desc="sampling", unit="batch", leave=False):
                size = (min(self.options.batch, count - start), *self.contestant.shape)
                x = torch.randn(size, generator=generator).to(self.device)
                for state in ancestral(denoiser(self.network, self.schedule, FLOW), x, levels):
                    x = state.x
                images.append(as_bytes(self.contestant.pixels(x)).cpu())
        return torch.cat(images)


def contestants(
    config: Config, autoencoder: str, source: Source, folder: Path, options: argparse.Namespace
) -> list[Contestant]:
    """The three of one resolution."""
    device, resolution = options.device, config.data.resolution
    pixels = all_pixels(source, config)
    mean = (pixels.double().mean((0, 2, 3)) / 127.5 - 1).float().to(device)[:, None, None]
    std = (pixels.double().std((0, 2, 3)) / 127.5).float().to(device)[:, None, None]

    def mirrored(indices: Tensor) -> Tensor:
        x = pixels[indices].to(device).float() / 127.5 - 1
        flip = torch.rand(len(x), generator=flips) < 0.5
        x = torch.where(flip.to(device)[:, None, None, None], x.flip(-1), x)
        return (x - mean) / std

    flips = torch.Generator().manual_seed(2)
    vae = load_autoencoder(autoencoder).to(device).eval().requires_grad_(False)
    start = now(device)
    cache = LatentCache.build(vae, source, config, folder, config.seed, device)
    seconds = now(device) - start
    standardize(vae, *cache.statistics)

    def decoded(z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, torch.bfloat16, enabled=options.bf16):
            return decode(vae, z).float()

    def latents(indices: Tensor) -> Tensor:
        noise = torch.randn(len(indices), *cache.shape, generator=flips).to(device)
        flip = (torch.rand(len(indices), generator=flips) < 0.5).tolist()
        return cache.sample(indices.tolist(), [0] * len(indices), flip, noise)

    def unnormalised(x: Tensor) -> Tensor:
        return x * std + mean

    plane = (3, resolution, resolution)
    depth = len(vae.config["block_out_channels"]) - 1
    shift = max(resolution / 64, 1.0)
    as_pixels = (mirrored, unnormalised, shift)
    return [
        Contestant("latent", resolution, cache.shape, 0, latents, decoded, 1.0, seconds),
        Contestant("pixel", resolution, plane, depth, *as_pixels),
        Contestant("pixel, same", resolution, plane, 0, *as_pixels),
    ]


class _Crops:
    """Centre crops of a source, for a loader."""

    def __init__(self, source: Source, resolution: int) -> None:
        self.source, self.resolution = source, resolution

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Tensor:
        return to_pixels(self.source.image(i), self.resolution, "center", flip=False)


def all_pixels(source: Source, config: Config) -> Tensor:
    crops = _Crops(source, config.data.resolution)
    workers = config.data.workers
    loader: Any = DataLoader(crops, batch_size=64, num_workers=workers)  # type: ignore[arg-type]
    return torch.cat(list(loader))
