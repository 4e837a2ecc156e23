"""Pixels stand in an autoencoder's place, and decode to what they were."""

import pytest
import torch

from autoencoder.latents import decode, encode_moments, standardize
from autoencoder.model import configured_codec, initial_autoencoder
from autoencoder.pixels import Pixels
from ldm.config import AutoencoderConfig, Config
from ldm.core.errors import UserError

CONFIG = Config(autoencoder=AutoencoderConfig(kind="pixels"))


def test_latents_are_the_pixels_and_a_sample_of_them_is_no_other():
    codec, pixels = configured_codec(CONFIG), torch.rand(2, 3, 8, 8) * 2 - 1
    assert codec.shape(8) == (3, 8, 8)
    vae = codec.module
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
        torch.testing.assert_close(posterior.sample(), pixels, rtol=0, atol=3e-6)
        assert torch.equal(posterior.mean, pixels)
        assert torch.equal(vae.decode(pixels).sample, pixels)


def test_standardised_pixels_have_mean_0_and_deviation_1_and_decode_to_what_they_were():
    generator = torch.Generator().manual_seed(0)
    pixels = (
        torch.tensor([0.3, 0.5, 0.1])[:, None, None] * torch.randn(64, 3, 8, 8, generator=generator)
        + torch.tensor([0.2, -0.1, 0.4])[:, None, None]
    )
    mean, std = pixels.double().mean((0, 2, 3)), pixels.double().std((0, 2, 3), correction=0)
    vae = standardize(Pixels(), mean, std)
    with torch.no_grad():
        latents = encode_moments(vae, pixels)[:, :3]
        torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
        torch.testing.assert_close(decode(vae, latents), pixels, atol=1e-5, rtol=1e-5)


def test_there_is_nothing_to_train_in_stage_1():
    with pytest.raises(UserError, match="kind=pixels has nothing to train"):
        initial_autoencoder(CONFIG)
