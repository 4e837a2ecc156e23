"""Encoding and decoding images too large for memory, in strips, with no seams at all.

Tiles that are computed apart disagree, because GroupNorm normalises each by its own statistics, and
blending only hides it. So here the image advances one convolution at a time: statistics are
gathered over all of a plane before the next convolution is applied to it, strip by strip. What is
computed is what the whole would have given; only a strip is ever in work, and the planes in between
may be kept elsewhere, say in host memory. The middle blocks attend over the whole image and are run
on it undivided: there it is small.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ldm.core.errors import UserError

PLAIN = {"resnets", "downsamplers", "upsamplers"}
STRIP = 2**16  # positions of a plane that are in work at a time: a 256 × 256 image


class _Planes:
    """Layers applied to planes (B, C, H, W) that are kept in `store`, in strips of whole rows."""

    def __init__(self, device: torch.device, store: torch.device, strip: int) -> None:
        self.device, self.store, self.strip = device, store, strip

    def rows(self, height: int, width: int) -> list[tuple[int, int]]:
        step = max(1, self.strip // width)
        return [(top, min(top + step, height)) for top in range(0, height, step)]

    def affine(self, x: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
        """GroupNorm of a whole plane as one scale and one shift for each channel, (B, C, 1, 1)."""
        assert isinstance(norm, nn.GroupNorm)
        counts, variances, means = [], [], []
        for top, bottom in self.rows(*x.shape[-2:]):
            part = x[..., top:bottom, :].to(self.device).float()
            variance, mean = torch.var_mean(
                part.unflatten(1, (norm.num_groups, -1)).flatten(2), dim=2, correction=0
            )
            counts.append(float(bottom - top))
            variances.append(variance.double())
            means.append(mean.double())
        weight = torch.tensor(counts, device=self.device, dtype=torch.float64)
        weight = (weight / weight.sum())[:, None, None]
        v, m = torch.stack(variances), torch.stack(means)  # (strips, B, G)
        mean = (weight * m).sum(0)
        variance = (weight * (v + (m - mean) ** 2)).sum(0)  # within strips and between them
        repeat = x.shape[1] // norm.num_groups
        gain = (variance + norm.eps).rsqrt().repeat_interleave(repeat, 1) * norm.weight
        shift = norm.bias - mean.repeat_interleave(repeat, 1) * gain
        return gain[:, :, None, None], shift[:, :, None, None]

    def convolve(
        self,
        x: Tensor,
        conv: nn.Conv2d,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
        zoom: int = 1,
        before: int | None = None,
        plus: Tensor | None = None,
    ) -> Tensor:
        """conv(act(norm(x)) enlarged by `zoom`) + plus; `before` zeros are added above and left.

        In the place of `plus` where there is one: it is not needed after.
        """
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        after = kernel // 2
        before = after if before is None else before
        affine = self.affine(x, norm) if norm is not None else None
        height, width = (side * zoom for side in x.shape[-2:])
        out_height = (height + before + after - kernel) // stride + 1
        out_width = (width + before + after - kernel) // stride + 1
        shape = (len(x), conv.out_channels, out_height, out_width)
        out = torch.empty(shape, dtype=x.dtype, device=self.store) if plus is None else plus
        for top, bottom in self.rows(out_height, max(width, out_width)):
            first, last = top * stride - before, (bottom - 1) * stride - before + kernel
            a, b = max(first, 0), min(last, height)
            part = x[..., a // zoom : -(-b // zoom), :].to(self.device)
            if affine is not None:
                part = (part * affine[0] + affine[1]).to(x.dtype)
            if activation is not None:
                part = activation(part)
            if zoom > 1:
                part = F.interpolate(part, scale_factor=float(zoom), mode="nearest")
                skipped = a - a // zoom * zoom
                part = part[..., skipped : skipped + b - a, :]
            part = F.pad(part, (before, after, a - first, last - b))
            part = F.conv2d(part, conv.weight, conv.bias, conv.stride)
            if plus is not None:
                part = part + plus[..., top:bottom, :].to(self.device)
            out[..., top:bottom, :] = part.to(self.store)
        return out

    def resnet(self, x: Tensor, block: ResnetBlock2D) -> Tensor:
        act = block.nonlinearity
        h = self.convolve(x, block.conv1, block.norm1, act)
        if block.conv_shortcut is not None:
            x = self.convolve(x, block.conv_shortcut)
        return self.convolve(h, block.conv2, block.norm2, act, plus=x)

    def resnets(self, x: Tensor, block: nn.Module) -> Tensor:
        for resnet in block.resnets:  # type: ignore[union-attr]
            x = self.resnet(x, resnet)
        return x


class InStrips:
    """An AutoencoderKL that is called as it is, and works in strips; planes in between in `store`.

    What it gives is what the whole would have given, up to rounding. Raises UserError for blocks
    that are not plain ResNets.
    """

    def __init__(self, vae: Any, strip: int = STRIP, store: torch.device | str = "cpu") -> None:
        for part, blocks in (("encoder", "down_blocks"), ("decoder", "up_blocks")):
            for block in getattr(getattr(vae, part, None), blocks, [vae]):
                if not {name for name, _ in block.named_children()} <= PLAIN:
                    raise UserError(
                        f"{type(block).__name__} cannot be computed in strips; only autoencoders "
                        "of DownEncoderBlock2D and UpDecoderBlock2D can"
                    )
        self.vae = vae
        self.planes = _Planes(vae.device, torch.device(store), strip)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vae, name)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> DecoderOutput:
        """Images (B, 3, H, W) of unscaled latents (B, C, h, w)."""
        vae, planes, decoder = self.vae, self.planes, self.vae.decoder
        z = latents if vae.post_quant_conv is None else vae.post_quant_conv(latents)
        x = decoder.mid_block(decoder.conv_in(z)).to(planes.store)
        for block in decoder.up_blocks:
            x = planes.resnets(x, block)
            for sampler in block.upsamplers or ():
                x = planes.convolve(x, sampler.conv, zoom=2)
        x = planes.convolve(x, decoder.conv_out, decoder.conv_norm_out, decoder.conv_act)
        return DecoderOutput(sample=x.to(planes.device))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> AutoencoderKLOutput:
        """The posteriors of images (B, 3, H, W)."""
        vae, planes, encoder = self.vae, self.planes, self.vae.encoder
        x = planes.convolve(pixels.to(planes.store), encoder.conv_in)
        for block in encoder.down_blocks:
            x = planes.resnets(x, block)
            for sampler in block.downsamplers or ():
                x = planes.convolve(x, sampler.conv, before=0)  # it pads below and right only
        x = encoder.mid_block(x.to(planes.device))
        moments = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(x)))
        moments = moments if vae.quant_conv is None else vae.quant_conv(moments)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))
