"""Pixels as latents: diffusion without an autoencoder, through the same call as one."""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from autoencoder.latents import LOGVAR_RANGE


class Pixels(ModelMixin, ConfigMixin):  # type: ignore[misc]  # both name their config file
    """An AutoencoderKL of nothing but its 1×1 convolutions: (B, 3, H, W) → (B, 3, H, W).

    They begin as the identity and take the standardisation of the data, as those of an autoencoder
    do. The posterior has the least variance there is, so that a sample of it is the image.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 3,
        block_out_channels: tuple[int, ...] = (1,),  # one scale: a latent is a pixel
        scaling_factor: float = 1.0,
        shift_factor: float | None = None,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
    ) -> None:
        super().__init__()
        self.quant_conv = _identity(2 * latent_channels)
        self.post_quant_conv = _identity(latent_channels)

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        certain = torch.full_like(x, LOGVAR_RANGE[0])
        posterior = DiagonalGaussianDistribution(self.quant_conv(torch.cat([x, certain], dim=1)))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Any:
        image = self.post_quant_conv(z)
        return DecoderOutput(sample=image) if return_dict else (image,)


def _identity(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(channels)[:, :, None, None])
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # there is one
    return conv
