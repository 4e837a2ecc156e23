"""Latents as an autoencoder has them: their shape, encoding, decoding, and standardisation."""

from collections.abc import Sequence

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor, nn

from ldm.core.errors import UserError

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


def nominal(vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Shift and deviation (C,) of the latents by the autoencoder's own config, float64.

    Latents are used as (z − shift) · scaling_factor.
    """
    channels = vae.config["latent_channels"]
    shift = torch.full((channels,), vae.config["shift_factor"] or 0.0, dtype=torch.float64)
    scale = torch.full((channels,), vae.config["scaling_factor"], dtype=torch.float64)
    return shift, 1 / scale


@torch.no_grad()
def standardize(
    vae: AutoencoderKL, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor
) -> AutoencoderKL:
    """Fold z → (z − mean)/std into the encoder's last convolution, its inverse into the decoder.

    `mean` and `std` (C,) are of the latents as `vae` encodes them, unscaled. In place; afterwards
    the latents need no scaling_factor, no shift and no extra key, and stock diffusers decodes them
    to the same image. A VAE without the 1×1 (post_)quant_conv is given them.
    """
    channels = vae.config["latent_channels"]
    m = torch.as_tensor(mean, dtype=torch.float64)
    s = torch.as_tensor(std, dtype=torch.float64)
    assert m.shape == s.shape == (channels,)
    if not bool((s > 0).all() and torch.isfinite(s).all() and torch.isfinite(m).all()):
        raise UserError(
            f"latents with standard deviations {[round(x, 6) for x in s.tolist()]} cannot be "
            "standardised: a channel is dead, so lower autoencoder.loss.kl or latent_channels"
        )
    like = next(vae.parameters())
    for name, width in (("quant_conv", 2 * channels), ("post_quant_conv", channels)):
        if getattr(vae, name) is None:
            identity = nn.Conv2d(width, width, 1).to(like.device, like.dtype)
            _assign(identity, torch.eye(width)[:, :, None, None], torch.zeros(width))
            setattr(vae, name, identity)

    into, out_of = vae.quant_conv, vae.post_quant_conv
    assert into is not None and out_of is not None
    w, b = _float64(into)
    scale = torch.cat([s, torch.ones_like(s)])  # the second half of the outputs is log-variances
    shift = torch.cat([m / s, 2 * s.log()])
    _assign(into, w / scale[:, None, None, None], b / scale - shift)

    w, b = _float64(out_of)
    _assign(out_of, w * s[None, :, None, None], b + w[:, :, 0, 0] @ m)
    vae.register_to_config(
        scaling_factor=1.0,
        shift_factor=None,
        latents_mean=None,
        latents_std=None,
        use_quant_conv=True,
        use_post_quant_conv=True,
    )
    return vae


def _float64(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert conv.bias is not None
    return conv.weight.detach().cpu().double(), conv.bias.detach().cpu().double()


def _assign(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    assert conv.bias is not None
    conv.weight.copy_(weight)
    conv.bias.copy_(bias)
