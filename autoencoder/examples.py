"""The examples of stage 1, with every random choice keyed by (seed, step, slot)."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.core import keyed
from ldm.data.example import Source
from ldm.data.images import ImageDataset, batches
from ldm.training.run import Run


class Batch(NamedTuple):
    pixels: Tensor  # (B, 3, R, R) in [−1, 1], the target
    corrupted: Tensor  # what the encoder sees: the same, unless a denoising autoencoder is trained
    noise: Tensor  # (B, C, h, w), of the posterior sample
    error: Tensor | None  # (B, C, h, w): by how much the decoder's latents are off


def examples(
    run: Run, source: Source, latent_shape: tuple[int, ...], start: int
) -> Iterator[Batch]:
    """The micro-batches of this process from step `start` on, with noise keyed by (step, slot)."""
    config, seed, device = run.config, run.config.seed, run.device
    dataset = ImageDataset(source, config.data, seed)
    slots = run.slots(range(len(source)), start, shuffle=not source.sequential)
    for count, (pixels, places) in enumerate(batches(dataset, slots, config.data.workers)):
        step = start + count // run.train.accumulation
        noise = keyed.example_normal(latent_shape, seed, step, places, "posterior")
        corrupted = pixels
        if std := config.autoencoder.loss.input_noise:
            shape = pixels.shape[1:]
            corrupted = pixels + std * keyed.example_normal(shape, seed, step, places, "corruption")
        error = None
        if std := config.autoencoder.loss.latent_noise:
            strength = std * keyed.example_normal((1, 1, 1), seed, step, places, "strength").abs()
            error = strength * keyed.example_normal(latent_shape, seed, step, places, "error")
            error = _moved(error, device)
        pixels, corrupted, noise = (_moved(x, device) for x in (pixels, corrupted, noise))
        yield Batch(pixels, corrupted, noise, error)


def _moved(x: Tensor, device: torch.device) -> Tensor:
    return x.to(device, memory_format=torch.channels_last, non_blocking=True)
