"""Each verdict on an autoencoder that is well, and on one made ill in just that way."""

import math

import pytest
import torch
from torch import nn

from autoencoder.health import (
    Posterior,
    discriminator_verdicts,
    equivariance_verdict,
    examine,
    kl_verdicts,
    posterior_of,
    report,
    robustness_verdict,
    spectral_flatness,
    spectrum_verdict,
)


class Pyramid(nn.Module):
    """An exact linear autoencoder of smooth images: 2×2 averages up and down, four channels.

    Ill on purpose by `shuffle` (positions permuted); `gain` alone makes the latents small and the
    decoder amplify, which is no illness.
    """

    def __init__(self, shuffle: bool = False, gain: float = 1.0) -> None:
        super().__init__()
        self.shuffle, self.gain = shuffle, gain
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def _order(self, count: int) -> torch.Tensor:
        return torch.randperm(count, generator=torch.manual_seed(0))

    def encode(self, x: torch.Tensor):
        mean = nn.functional.avg_pool2d(x, 2) / self.gain
        mean = torch.cat([mean, mean[:, :1]], dim=1)
        if self.shuffle:
            flat = mean.flatten(2)
            mean = flat[:, :, self._order(flat.shape[2])].view_as(mean)
        logvar = torch.full_like(mean, 2 * math.log(0.02 / self.gain))
        posterior = type("Posterior", (), {"mean": mean, "logvar": logvar})
        return type("Encoded", (), {"latent_dist": posterior})

    def decode(self, z: torch.Tensor):
        if self.shuffle:
            flat = z.flatten(2)
            back = torch.empty_like(flat)
            back[:, :, self._order(flat.shape[2])] = flat
            z = back.view_as(z)
        image = nn.functional.interpolate(z[:, :3] * self.gain, scale_factor=2.0)
        return type("Decoded", (), {"sample": image})


def gaussian(count: int = 64, std: float = 1.0, noise: float = 0.1, smooth: bool = True):
    """Posteriors with a known share of noise; `smooth` over positions or white."""
    generator = torch.manual_seed(0)
    mean = torch.randn(count, 4, 1 if smooth else 8, 1 if smooth else 8, generator=generator)
    mean = (std * mean).expand(count, 4, 8, 8).clone()
    return Posterior(mean, torch.full_like(mean, 2 * math.log(noise)))


def by_name(verdicts) -> dict[str, bool]:
    return {v.name: v.ok for v in verdicts}


def test_bits_are_the_capacity_of_a_gaussian_channel():
    # signal variance 1, noise variance 1/15: ½ log₂(16) = 2 bits, at any scale
    for scale in (1.0, 37.0):
        posterior = gaussian(4096, std=scale, noise=scale / math.sqrt(15))
        torch.testing.assert_close(posterior.bits, torch.full((4,), 2.0), atol=0.05, rtol=0)


def test_kurtosis_is_0_of_a_gaussian_and_3_of_a_laplacian():
    torch.manual_seed(0)
    shape = (256, 1, 16, 16)
    nothing = torch.zeros(shape)
    assert abs(float(Posterior(torch.randn(shape), nothing).kurtosis)) < 0.1
    laplacian = torch.distributions.Laplace(0.0, 1.0).sample(shape)
    assert float(Posterior(laplacian, nothing).kurtosis) == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize(
    ("ill", "posterior"),
    [
        ("KL not too strong", gaussian(std=0.5, noise=1.0)),
        ("KL not too weak", gaussian(noise=1e-4)),
    ],
)
def test_a_kl_of_the_wrong_strength_is_told(ill, posterior):
    well = by_name(kl_verdicts(gaussian()))
    assert all(well.values())
    assert [name for name, ok in by_name(kl_verdicts(posterior)).items() if not ok] == [ill]


def test_a_dead_channel_is_told_by_its_number():
    posterior = gaussian()
    posterior.mean[:, 2] *= 1e-3
    verdict = {v.name: v for v in kl_verdicts(posterior)}["no dead channels"]
    assert not verdict.ok and verdict.value == 1 and "[2]" in verdict.text


def test_a_few_outliers_are_told_as_heavy_tails():
    posterior = gaussian()
    posterior.mean[0, 1] *= 40
    verdict = {v.name: v for v in kl_verdicts(posterior)}["no heavy tails"]
    assert not verdict.ok and "channel 1" in verdict.text


def test_white_latents_are_told_from_smooth_ones(flowers):
    white = torch.randn(64, 4, 16, 16, generator=torch.manual_seed(0))
    assert spectral_flatness(white) == pytest.approx(1, abs=0.02)
    assert spectral_flatness(flowers) < 0.3
    assert spectrum_verdict(posterior_of(Pyramid(), flowers)).ok
    assert not spectrum_verdict(posterior_of(Pyramid(shuffle=True), flowers)).ok


def test_a_decoder_that_amplifies_noise_is_told(flowers):
    well, ill = Pyramid(), Pyramid()
    assert robustness_verdict(well, posterior_of(well, flowers)).ok
    real = ill.decode

    def brittle(z):  # small changes of a latent flip the picture
        image = real(z).sample
        return type("Decoded", (), {"sample": torch.sin(60 * image)})

    ill.decode = brittle
    assert not robustness_verdict(ill, posterior_of(ill, flowers)).ok


def test_robustness_does_not_depend_on_the_scale_of_the_latents(flowers):
    values = []
    for gain in (1.0, 50.0):
        vae = Pyramid(gain=gain)
        values.append(robustness_verdict(vae, posterior_of(vae, flowers)).value)
    assert values[0] == pytest.approx(values[1], abs=0.1)


def test_positions_coded_out_of_order_do_not_scale(flowers):
    well, ill = Pyramid(), Pyramid(shuffle=True)
    assert equivariance_verdict(well, flowers, posterior_of(well, flowers)).ok
    assert not equivariance_verdict(ill, flowers, posterior_of(ill, flowers)).ok
    odd = flowers[..., 1:-1, 1:-1]  # 15 × 15 latents: half of them are 7 × 7
    assert equivariance_verdict(well, odd, posterior_of(well, odd)).ok


@pytest.mark.parametrize(
    ("real", "fake", "weight", "ill"),
    [
        (1.0, -1.0, 1.0, []),
        (0.0, 0.0, 1.0, ["discriminator sees something"]),
        (30.0, -30.0, 1.0, ["discriminator is not too strong"]),
        (1.0, -1.0, 1e4, ["generator feels the discriminator"]),
        (1.0, -1.0, 1e-5, ["generator feels the discriminator"]),
    ],
)
def test_a_discriminator_that_is_blind_or_always_right_is_told(real, fake, weight, ill):
    generator = torch.manual_seed(0)
    noise = torch.randn(2, 1000, generator=generator)
    verdicts = discriminator_verdicts(real + noise[0], fake + noise[1], weight)
    assert [name for name, ok in by_name(verdicts).items() if not ok] == ill


def test_every_verdict_comes_with_its_figure_and_an_ill_one_with_advice(vae, flowers):
    posterior = posterior_of(vae, flowers)
    verdicts = examine(vae, flowers, posterior, nn.Conv2d(3, 1, 4), weight=1.0)
    figures = posterior.figures()
    assert len(figures) == 4 * 4 and figures["std_2"] == posterior.channel_std[2].item()
    assert len({v.name for v in verdicts}) == len(verdicts) == 12
    for verdict, line in zip(verdicts, report(verdicts).splitlines(), strict=True):
        assert math.isfinite(verdict.value)
        assert line.startswith("ok " if verdict.ok else "ILL")
        assert verdict.ok or ";" in verdict.text
