"""Is this autoencoder well? Verdicts in words, each with a threshold and the reason for it."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models import AutoencoderKL
from torch import Tensor

from autoencoder.activations import Verdict, activation_verdicts, judged
from autoencoder.latents import decode, encode_moments
from ldm.core import keyed

LAPLACE_KURTOSIS = 3.0
FP16_BITS = 11  # of float16's significand
PROBE = 0.1  # the latent noise of the robustness verdict, in standard deviations


class Posterior(NamedTuple):
    """Posteriors (N, C, h, w) of images, as the autoencoder encodes them."""

    mean: Tensor
    logvar: Tensor

    @property
    def channel_mean(self) -> Tensor:
        return self.mean.mean((0, 2, 3))

    @property
    def channel_std(self) -> Tensor:
        """Of samples: the spread of the means and the posterior's own."""
        return (self.mean.var((0, 2, 3), correction=0) + self.logvar.exp().mean((0, 2, 3))).sqrt()

    @property
    def bits(self) -> Tensor:
        """Information per element of each channel (C,): ½ log₂ of total over posterior variance.

        The capacity of a Gaussian channel; unlike the KL, it does not depend on the latents' scale.
        """
        return self.channel_std.log2() - 0.5 * self.logvar.mean((0, 2, 3)) / math.log(2)

    @property
    def kurtosis(self) -> Tensor:
        """Excess kurtosis of each channel's means (C,): 0 for a Gaussian, 3 for a Laplacian."""
        centred = self.mean - self.channel_mean[:, None, None]
        variance = centred.square().mean((0, 2, 3))
        return centred.pow(4).mean((0, 2, 3)) / variance.square().clamp(min=1e-24) - 3

    def figures(self) -> dict[str, float]:
        """What there is to know of each channel, by name and number."""
        columns = {
            "mean": self.channel_mean,
            "std": self.channel_std,
            "kurtosis": self.kurtosis,
            "bits": self.bits,
        }
        return {f"{k}_{c}": x for k, v in columns.items() for c, x in enumerate(v.tolist())}

    def standardised(self) -> Tensor:
        shifted = self.mean - self.channel_mean[:, None, None]
        return shifted / self.channel_std[:, None, None].clamp(min=1e-12)


def kl_verdicts(posterior: Posterior) -> list[Verdict]:
    """Too strong a KL, too weak a one, dead channels, heavy tails."""
    bits = posterior.bits
    mean_bits = float(bits.mean())
    dead = [c for c, b in enumerate(bits.tolist()) if b < 0.05]
    kurtosis = posterior.kurtosis
    worst = int(kurtosis.argmax())
    return [
        judged(
            "KL not too strong",
            mean_bits,
            mean_bits >= 0.5,
            f"{mean_bits:.2f} bits per latent element",
            "under half a bit the posterior is hardly narrower than the prior and most of what the "
            "decoder sees is noise: lower autoencoder.loss.kl tenfold",
        ),
        judged(
            "KL not too weak",
            mean_bits,
            mean_bits <= FP16_BITS,
            f"{mean_bits:.2f} bits per latent element",
            f"over {FP16_BITS} bits, what float16 resolves, the latents hide detail where no "
            "diffusion model can follow: raise autoencoder.loss.kl tenfold",
        ),
        judged(
            "no dead channels",
            float(len(dead)),
            not dead,
            f"{len(dead)} of {len(bits)} channels carry under 0.05 bits {dead or ''}".rstrip(),
            "they are noise that the U-Net must learn to make: use fewer latent_channels or lower "
            "autoencoder.loss.kl",
        ),
        judged(
            "no heavy tails",
            float(kurtosis[worst]),
            float(kurtosis[worst]) <= 2 * LAPLACE_KURTOSIS,
            f"excess kurtosis at most {float(kurtosis[worst]):.1f} (channel {worst})",
            "beyond twice a Laplacian's 3 a few outliers set the standard deviation, and the noise "
            "schedule no longer fits the rest: raise autoencoder.loss.kl",
        ),
    ]


def spectral_flatness(latents: Tensor) -> float:
    """Geometric over arithmetic mean of the power spectrum of (N, C, h, w), without its mean.

    1 is white noise: neighbours have nothing in common. Photographs have about 0.1.
    """
    power = torch.fft.rfft2(latents.cpu().double()).abs().square().mean((0, 1)).flatten()[1:]
    return float(power.clamp(min=1e-30).log().mean().exp() / power.mean().clamp(min=1e-30))


def spectrum_verdict(posterior: Posterior) -> Verdict:
    """How far an element can be predicted from its neighbours, by the spectrum.

    The geometric mean of a spectrum is the error of the best linear prediction (Kolmogorov 1941),
    so the flatness is the share of the variance that stays unknown.
    """
    flatness = spectral_flatness(posterior.standardised())
    return judged(
        "latents are not white noise",
        flatness,
        flatness <= 0.8,
        f"{flatness:.0%} of an element's variance cannot be told from its neighbours",
        "white noise has 100 %, and beyond 80 % (1 dB) there is little to denoise by: raise "
        "autoencoder.loss.kl, which drops the finest detail first, or use a smaller downsampling "
        "factor",
    )


def _psnr(x: Tensor, y: Tensor) -> float:
    return float(10 * torch.log10(4 / (x - y).square().mean().clamp(min=1e-12)))


def robustness_verdict(vae: AutoencoderKL, posterior: Posterior) -> Verdict:
    """What noise of a tenth of a standard deviation in the latents does to the image."""
    clean = posterior.mean
    noise = keyed.normal(clean.shape, "health", "robustness").to(clean.device)
    moved = clean + PROBE * posterior.channel_std[:, None, None] * noise
    value = _psnr(decode(vae, moved), decode(vae, clean))
    return judged(
        "decoding withstands noise",
        value,
        value >= 20,
        f"{value:.1f} dB between decodings {PROBE} standard deviations apart",
        "a sampler's errors are of that size; under 20 dB they change the image by more than a "
        "tenth of its range: raise autoencoder.loss.kl",
    )


def equivariance_verdict(vae: AutoencoderKL, pixels: Tensor, posterior: Posterior) -> Verdict:
    """How much of the half-size image's variance half-size latents decode to."""
    height, width = (max(1, side // 2) for side in posterior.mean.shape[-2:])
    decoded = decode(vae, F.adaptive_avg_pool2d(posterior.mean, (height, width))).to(pixels.device)
    half = F.adaptive_avg_pool2d(pixels, (decoded.shape[-2], decoded.shape[-1]))
    unexplained = (decoded - half).square().mean() / half.var((0, 2, 3), correction=0).mean()
    share = float(1 - unexplained)
    return judged(
        "latents scale with the image",
        share,
        share >= 0.5,
        f"half-size latents decode to {share:.0%} of the variance of the half-size image",
        "under half of it, the place within a patch is coded in ways that averaging destroys; such "
        "fine detail in the latents is what a diffusion learns last: set "
        "autoencoder.loss.equivariance=0.25, or raise autoencoder.loss.kl",
    )


def discriminator_verdicts(
    real: Tensor, fake: Tensor, weight: float | None = None
) -> list[Verdict]:
    """Of logits on held-out images and their reconstructions; `weight` is λ, the gradient ratio."""
    accuracy = 0.5 * float((real > 0).float().mean() + (fake < 0).float().mean())
    margin = float(real.mean() - fake.mean())
    verdicts = [
        judged(
            "discriminator sees something",
            accuracy,
            accuracy >= 0.52,
            f"it is right on {accuracy:.0%} of patches, margin {margin:.2f}",
            "at 50 % its loss stands at the value of a constant (1 for hinge) and its gradient is "
            "noise: where reconstructions are not yet perfect, raise its learning rate or start it "
            "later",
        ),
        judged(
            "discriminator is not too strong",
            accuracy,
            accuracy <= 0.98,
            f"it is right on {accuracy:.0%} of patches, margin {margin:.2f}",
            "where it is always right its gradient no longer says which way to go: set "
            "autoencoder.loss.r1 or lecam, or start it later",
        ),
    ]
    if weight is not None:
        verdicts.append(
            judged(
                "generator feels the discriminator",
                weight,
                1e-3 < weight < 1e3,
                f"gradient ratio {weight:.3g}",
                "past 1000 either way one of the two gradients is vanishing next to the other: "
                "compare autoencoder.loss.adversarial with the reconstruction's weight",
            )
        )
    return verdicts


@torch.no_grad()
def posterior_of(vae: AutoencoderKL, pixels: Tensor) -> Posterior:
    return Posterior(*encode_moments(vae, pixels).float().chunk(2, dim=1))


@torch.no_grad()
def examine(
    vae: AutoencoderKL,
    pixels: Tensor,
    posterior: Posterior,
    discriminator: Callable[[Tensor], Tensor] | None = None,
    weight: float | None = None,
) -> list[Verdict]:
    """All verdicts, on held-out images (N, 3, R, R) in [−1, 1] and their posteriors."""
    verdicts = [
        *kl_verdicts(posterior),
        spectrum_verdict(posterior),
        robustness_verdict(vae, posterior),
        equivariance_verdict(vae, pixels, posterior),
        *activation_verdicts(vae, pixels),
    ]
    if discriminator is not None:
        fake = decode(vae, posterior.mean)
        verdicts += discriminator_verdicts(discriminator(pixels), discriminator(fake), weight)
    return verdicts


def report(verdicts: Iterable[Verdict]) -> str:
    """One line each."""
    return "\n".join(map(str, verdicts))
