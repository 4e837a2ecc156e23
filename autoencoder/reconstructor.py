"""Image → latents → image: what stage 1 trains."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models import AutoencoderKL
from torch import Tensor, nn

from autoencoder.latents import LOGVAR_RANGE
from ldm.config import AutoencoderConfig, TrainConfig
from ldm.core.errors import UserError


class Output(NamedTuple):
    image: Tensor  # (B, 3, H, W)
    mean: Tensor  # (B, C, h, w), of the posterior
    logvar: Tensor
    half: Tensor | None = None  # (B, 3, H/2, W/2), decoded from half-size latents


class Reconstructor(nn.Module):
    """Image → posterior → sample → image; without a KL the sample is the mean: a plain autoencoder.

    `trainable` is "all" or "decoder"; the encoder of the latter keeps the latent space as it is.
    """

    def __init__(self, vae: AutoencoderKL, config: AutoencoderConfig) -> None:
        super().__init__()
        if config.trainable not in ("all", "decoder"):
            raise UserError(
                f"autoencoder.trainable={config.trainable!r} is not known; use all or decoder"
            )
        self.vae = vae
        self.decoder_only = config.trainable == "decoder"
        self.samples = config.loss.kl > 0 or self.decoder_only
        self.halves = config.loss.equivariance > 0
        vae.requires_grad_(True)
        if self.decoder_only:
            vae.encoder.requires_grad_(False)
            if vae.quant_conv is not None:
                vae.quant_conv.requires_grad_(False)
        elif not self.samples:
            make_certain(vae)

    def forward(self, pixels: Tensor, noise: Tensor, error: Tensor | None = None) -> Output:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.decoder_only):
            posterior = self.vae.encode(pixels).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + (0.5 * logvar).exp() * noise if self.samples else mean
        latents = latents if error is None else latents + error
        image = self.vae.decode(latents).sample.float()
        return Output(image, mean, logvar, self._half(latents) if self.halves else None)

    def _half(self, latents: Tensor) -> Tensor:
        """What half-size latents decode to."""
        height, width = (max(1, side // 2) for side in latents.shape[-2:])
        return self.vae.decode(F.adaptive_avg_pool2d(latents, (height, width))).sample.float()

    def configure(self, options: TrainConfig) -> None:
        """Make this module as fast, or as small, as the options ask."""
        self.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.backends.cudnn.benchmark = True  # all of its batches have one shape
        if options.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()
        if options.compile:
            decoder = self.vae.decoder
            # not the last layer: the adaptive weight takes gradients there and nowhere else
            for part in (self.vae.encoder, decoder.mid_block, *decoder.up_blocks):
                part.compile()


@torch.no_grad()
def make_certain(vae: AutoencoderKL) -> None:
    """Give every posterior the least variance there is, for a plain autoencoder.

    Nothing trains it, so it stays; whoever samples the posterior later gets the mean.
    """
    if (conv := vae.quant_conv) is None or conv.bias is None:
        raise UserError("a plain autoencoder (autoencoder.loss.kl=0) needs use_quant_conv=true")
    conv.weight[len(conv.weight) // 2 :] = 0
    conv.bias[len(conv.bias) // 2 :] = LOGVAR_RANGE[0]
