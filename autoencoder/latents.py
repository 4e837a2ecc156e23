"""Pixels to latents and back: as the autoencoder has them, and scaled as the U-Net knows them."""

from typing import Any

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor

from ldm.core.errors import UserError

SLICE = 2**20  # pixels that are encoded or decoded at once
LOGVAR_RANGE = (-30.0, 20.0)  # diffusers clamps a posterior's log-variance to this


def downsampling(vae: AutoencoderKL) -> int:
    """Pixels per latent element along a side: 4 for an f4 autoencoder."""
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def latent_shape(vae: AutoencoderKL, resolution: int) -> tuple[int, int, int]:
    """(C, h, w) of the latents of a square image. Raises UserError where it does not divide."""
    side, rest = divmod(resolution, downsampling(vae))
    if rest:
        raise UserError(
            f"data.resolution={resolution} is not a multiple of {downsampling(vae)}, by which the "
            "autoencoder shrinks an image"
        )
    return vae.config["latent_channels"], side, side


def _like(vae: AutoencoderKL, x: Tensor) -> Tensor:
    return x.to(vae.device, vae.dtype)


def encode_moments(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Mean and log-variance (B, 2C, h, w) of images (B, 3, H, W) in [−1, 1], unscaled."""
    posterior = vae.encode(_like(vae, pixels)).latent_dist
    return torch.cat([posterior.mean, posterior.logvar], dim=1)


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images (B, 3, H, W), about [−1, 1], of unscaled latents (B, C, h, w)."""
    return vae.decode(_like(vae, latents)).sample


def scaled_decode(vae: Any, latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) as the U-Net knows them → pixels (B, 3, H, W) in [0, 1], float32."""
    z = latents / vae.config.scaling_factor + _shift(vae)
    count = max(1, SLICE // (z.shape[-2] * z.shape[-1] * downsampling(vae) ** 2))
    parts = [vae.decode(part.to(vae.dtype)).sample for part in z.split(count)]
    return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1)


def scaled_encode(vae: Any, pixels: Tensor, noise: Tensor) -> Tensor:
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


def _shift(vae: Any) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0
