"""Pixels to latents and back."""

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor

LOGVAR_RANGE = (-30.0, 20.0)  # diffusers clamps a posterior's log-variance to this


def _like(vae: AutoencoderKL, x: Tensor) -> Tensor:
    return x.to(vae.device, vae.dtype)


def encode_moments(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Mean and log-variance (B, 2C, h, w) of images (B, 3, H, W) in [−1, 1], unscaled."""
    posterior = vae.encode(_like(vae, pixels)).latent_dist
    return torch.cat([posterior.mean, posterior.logvar], dim=1)


def decode(vae: AutoencoderKL, latents: Tensor, slice_size: int | None = None) -> Tensor:
    """Images (B, 3, H, W), about [−1, 1], of unscaled latents (B, C, h, w).

    `slice_size` images are decoded at a time, which bounds the memory.
    """
    slices = latents.split(slice_size or len(latents))
    return torch.cat([vae.decode(_like(vae, z)).sample for z in slices])
