"""Of the exact denoiser of N(0, s²): the flow's density is exact, the bound is above it."""

import math

import torch

from ldm.core.share import Share
from ldm.diffusion.plane import Estimate, clean
from ldm.diffusion.schedules import SCHEDULES
from ldm.evaluation.bits import bound_by_level, flow_bits

STD = 0.6


def exact(x, level):
    gain = level.alpha * STD**2 / (level.alpha**2 * STD**2 + level.sigma**2)
    x0 = gain * x
    return Estimate(x0, (x - level.alpha * x0) / level.sigma)


def latents(n=12):
    return STD * torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(3))


def truth(x0):
    nats = 0.5 * ((x0 / STD) ** 2 + math.log(2 * math.pi * STD**2))
    return nats.flatten(1).mean(1).double() / math.log(2)


def test_flow_density_is_exact_and_no_bound_is_below_it():
    x0, schedule = latents().double(), SCHEDULES["scaled_linear"](zero_snr=True)
    found = flow_bits(lambda piece: exact, schedule, x0, 0, Share(), "cpu", steps=30)
    torch.testing.assert_close(found, truth(x0), rtol=0, atol=0.01)
    levels = [schedule.level(torch.tensor(k / 200).double()) for k in range(200, 0, -1)]
    bits = bound_by_level(lambda piece: exact, x0, [*levels, clean()], 0, Share(), "cpu")
    terms = {m.name: m for m in bits.measurements()}
    loose = terms["bits_per_dim"].value - float(truth(x0).mean())
    assert 0 < loose < 0.6
    parts = [terms[f"bits_{name}"].value for name in ("prior", "steps", "reconstruction")]
    assert abs(sum(parts) - terms["bits_per_dim"].value) < 1e-9
    said = bits.bound()
    assert len(said.t) == len(said.steps) == 199 and said.t[0] == 1.0


def test_the_bound_does_not_depend_on_the_number_of_examples():
    x0, schedule = latents().double(), SCHEDULES["scaled_linear"]()
    levels = [schedule.level(torch.tensor(k / 10).double()) for k in range(10, 0, -1)] + [clean()]
    every = bound_by_level(lambda piece: exact, x0, levels, 0, Share(), "cpu")
    few = bound_by_level(lambda piece: exact, x0[:5], levels, 0, Share(), "cpu")
    torch.testing.assert_close(few.steps, every.steps[:, :5])
    torch.testing.assert_close(few.reconstruction, every.reconstruction[:5])
