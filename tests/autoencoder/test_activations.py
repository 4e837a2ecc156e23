"""What flows through an autoencoder that is well, and through ones made ill on purpose."""

import math
from pathlib import Path

import pytest
import torch

from autoencoder.activations import activation_verdicts, energy_in_a_spot
from autoencoder.model import load_autoencoder

SHIPPED = Path(__file__).parents[2] / "autoencoder" / "pretrained" / "drawn64"


def test_white_noise_has_a_spots_own_share_and_a_lone_spot_has_all():
    noise = torch.randn(4, 64, 100, 100, generator=torch.manual_seed(0))
    assert energy_in_a_spot(noise) == pytest.approx(0.001, rel=0.8)
    lone = torch.zeros(1, 3, 50, 50)
    lone[..., 49, 0] = 7
    assert energy_in_a_spot(lone) == 1


def test_energy_in_a_spot_by_hand():
    x = torch.ones(1, 2, 20, 25)  # 500 positions: a spot is one of them
    x[0, :, 3, 4] = 10
    assert energy_in_a_spot(x) == pytest.approx(200 / (200 + 2 * 499))


def test_an_autoencoder_that_was_trained_well_is_well(flowers):
    precision, spot = activation_verdicts(load_autoencoder(SHIPPED), flowers)
    assert precision.ok and spot.ok and spot.value < 0.1


@pytest.mark.parametrize("gain", [1e7, math.inf])
def test_activations_beyond_float16_are_told(vae, flowers, gain):
    assert activation_verdicts(vae, flowers)[0].ok
    with torch.no_grad():
        vae.decoder.up_blocks[1].resnets[0].conv2.weight *= gain
    verdict = activation_verdicts(vae, flowers)[0]
    assert not verdict.ok and "bfloat16" in verdict.text


def test_a_spot_that_rules_a_norm_is_told_with_the_norms_name(vae, flowers):
    assert activation_verdicts(vae, flowers)[1].ok

    def spike(module, inputs, output):
        output[..., -1, 0] = 100 * output.std()
        return output

    vae.decoder.up_blocks[2].resnets[0].conv1.register_forward_hook(spike)
    verdict = activation_verdicts(vae, flowers)[1]
    assert not verdict.ok and "decoder.up_blocks.2.resnets.0.norm2 divides" in verdict.text
