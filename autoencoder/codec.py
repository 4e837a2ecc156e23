"""The codec of stage 2: an AutoencoderKL, or whatever is called as one, behind the port."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autoencoder.latents import downsampling, encode_moments, latent_shape, nominal, standardize
from autoencoder.pixels import Pixels
from autoencoder.tiling import InStrips
from ldm.models.view import view

SLICE = 2**20  # pixels that are encoded or decoded at once


@dataclass(frozen=True)
class KLCodec:
    """Latents of an AutoencoderKL, scaled as its config says; a `Codec`."""

    module: Any
    strips: bool = False  # exact, in little memory

    @property
    def name(self) -> str:
        return "pixels" if isinstance(self.module, Pixels) else "latents"

    @property
    def channels(self) -> int:
        return self.module.config.latent_channels

    @property
    def factor(self) -> int:
        return downsampling(self.module)

    def shape(self, resolution: int) -> tuple[int, int, int]:
        return latent_shape(self.module, resolution)

    def encode(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """A draw from the posterior, as diffusers' pipelines take."""
        vae = self.module
        count = max(1, SLICE // (pixels.shape[-2] * pixels.shape[-1]))
        posteriors = [vae.encode(part.to(vae.dtype)).latent_dist for part in pixels.split(count)]
        mean, std = (
            torch.cat([getattr(p, name) for p in posteriors]).float() for name in ("mean", "std")
        )
        mean, std = (t.repeat_interleave(len(noise) // len(pixels), 0) for t in (mean, std))
        return (mean + std * noise - self._shift) * vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.module
        z = latents / vae.config.scaling_factor + self._shift
        count = max(1, SLICE // (z.shape[-2] * z.shape[-1] * self.factor**2))
        parts = [vae.decode(part.to(vae.dtype)).sample for part in z.split(count)]
        return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1)

    def moments(self, pixels: Tensor) -> Tensor:
        return encode_moments(self.module, pixels)

    def nominal(self) -> tuple[Tensor, Tensor]:
        return nominal(self.module)

    def standardize(self, mean: Tensor, std: Tensor) -> None:
        standardize(self.module, mean, std)

    def around(self, module: Any) -> "KLCodec":
        return replace(self, module=module)

    def in_strips(self, wanted: bool) -> "KLCodec":
        if wanted:
            InStrips(self.module)  # or refuse
        return replace(self, strips=wanted)

    def view(self) -> "KLCodec":
        seen = view(self.module)
        return KLCodec(InStrips(seen) if self.strips else seen)

    @property
    def _shift(self) -> float:
        return getattr(self.module.config, "shift_factor", None) or 0.0
