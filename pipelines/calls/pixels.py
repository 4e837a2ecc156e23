"""Between what a user sees and what the U-Net does: encode, decode, and the forms of an image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.core.errors import UserError

SLICE = 2**20  # pixels that are encoded or decoded at once
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class Images:
    """A call's result; as in diffusers, `result.images`."""

    images: Any  # list of PIL images, or an array (B, H, W, 3), or a tensor (B, C, H, W)
    nsfw_content_detected: None = None  # there is no filter

    def __getitem__(self, index: int) -> Any:
        return (self.images, self.nsfw_content_detected)[index]


def refuse_output_type(name: str) -> None:
    """Raise UserError before any sampling is done for nothing."""
    if name not in OUTPUT_TYPES:
        raise UserError(f"output_type {name!r} is not one of {', '.join(OUTPUT_TYPES)}")


def given_latents(latents: Any, shape: tuple[int, ...]) -> Tensor:
    """Latents from a user, float32; raises UserError where they are none of `shape`."""
    if not isinstance(latents, Tensor):
        raise UserError(f"latents are a {type(latents).__name__}: pass a tensor {shape}")
    if latents.shape != shape:
        raise UserError(f"latents are {tuple(latents.shape)}, not {shape}")
    if not bool(latents.isfinite().all()):
        raise UserError("latents hold NaN or infinity")
    return latents.float()


def output(pixels: Tensor, output_type: str) -> Images:
    """Pixels (B, 3, H, W) in [0, 1] in the form that was asked for."""
    if output_type == "pt":
        return Images(pixels)
    array = pixels.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return Images(array)
    return Images([Image.fromarray(a) for a in (array * 255).round().astype(np.uint8)])


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) as the U-Net knows them → pixels (B, 3, H, W) in [0, 1], float32."""
    z = latents / vae.config.scaling_factor + _shift(vae)
    count = max(1, SLICE // (z.shape[-2] * z.shape[-1] * factor(vae) ** 2))
    parts = [vae.decode(part.to(vae.dtype)).sample for part in z.split(count)]
    return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1)


def encode(vae: Any, pixels: Tensor, noise: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) in [-1, 1] → latents (B, C, h, w) as the U-Net knows them, float32.

    A draw from the posterior with the standard normal `noise`, as diffusers' pipelines take; where
    it has more rows, as many of each image in a row.
    """
    count = max(1, SLICE // (pixels.shape[-2] * pixels.shape[-1]))
    posteriors = [vae.encode(part.to(vae.dtype)).latent_dist for part in pixels.split(count)]
    mean, std = (
        torch.cat([getattr(p, name) for p in posteriors]).float() for name in ("mean", "std")
    )
    mean, std = (t.repeat_interleave(len(noise) // len(pixels), 0) for t in (mean, std))
    return (mean + std * noise - _shift(vae)) * vae.config.scaling_factor


def factor(vae: Any) -> int:
    """Pixels per latent, along each side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def _shift(vae: Any) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0
