"""How likely data is under a denoiser: the evidence lower bound, and the probability flow's own.

Both are about the density of x0, which is continuous, so that bits per dimension may be negative;
with `bins` the ELBO is about 8-bit pixels in [-1, 1] instead.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.loss import variance_bits
from ldm.diffusion.plane import Denoiser, Level, Noise, fit, noised
from ldm.diffusion.schedules import Schedule

VARIANCES = {"small": -1.0, "large": 1.0}  # as a learned variance says them


def bits_per_dim(nats: Tensor, x0: Tensor) -> Tensor:
    """Nats (..., B) of examples x0 (B, ...) as bits per element."""
    return nats / (x0[0].numel() * math.log(2))


class Elbo(NamedTuple):
    """Terms of a bound on -log p(x0), in bits per dimension; each has an expectation over noise."""

    prior: Tensor  # (B,) L_T: what the noisiest level still tells of x0
    steps: Tensor  # (n - 1, B) L_vlb of each step between noisy levels, noisiest first
    reconstruction: Tensor  # (B,) L_0: x0 from the cleanest noisy level

    @property
    def total(self) -> Tensor:
        return self.prior + self.steps.sum(0) + self.reconstruction


def elbo(
    denoiser: Denoiser,
    x0: Tensor,
    levels: Sequence[Level],
    noise: Noise,
    variance: str = "small",
    bins: int | None = None,
) -> Elbo:
    """The three terms of DDPM's (Ho et al. 2020) eq. 5, one draw noise(i) of q(x_i | x0) a level.

    `levels` run from the noisiest to a clean one; `variance` is that of `ddpm`. x_T has the prior
    N(0, α² + σ²), and x0 given the cleanest noisy level the variance β (DDPM, section 3.3).
    """
    assert levels[-1].sigma == 0, "the last level must be clean"
    top = levels[0]
    scale = top.alpha**2 + top.sigma**2
    excess = fit(top.alpha**2 / scale, x0) * (x0.square() - 1) - (top.sigma**2 / scale).log()
    terms = [excess / math.log(4)]  # KL(N(αx0, σ²) ‖ N(0, α² + σ²))
    for i, (a, b) in enumerate(pairwise(levels)):
        estimate = denoiser(noised(x0, noise(i), a), a)
        if b.sigma == 0 and bins is not None:
            terms.append(_bin_bits(x0, estimate.x0, fit(a.sigma, x0), 2 / (bins - 1)))
            continue
        var = estimate.var if variance == "learned" else torch.full_like(x0, VARIANCES[variance])
        assert var is not None, "variance=learned needs a network with twice the channels of x"
        terms.append(variance_bits(x0, estimate.x0, var, a, b))
    bits = torch.stack([term.flatten(1).mean(1) for term in terms])
    return Elbo(bits[0], bits[1:-1], bits[-1])


def _bin_bits(x0: Tensor, mean: Tensor, std: Tensor, width: float) -> Tensor:
    """-log2 P(bin of x0) under N(mean, std²), the outer bins open: DDPM eq. 13."""
    high = torch.special.ndtr((x0 + width / 2 - mean) / std).masked_fill(x0 > 1 - width / 2, 1)
    low = torch.special.ndtr((x0 - width / 2 - mean) / std).masked_fill(x0 < width / 2 - 1, 0)
    return -(high - low).clamp(min=1e-12).log2()


class FlowLikelihood(NamedTuple):
    """log p(x0) in nats, its standard error over probes, and the noise that flows to x0."""

    log_prob: Tensor  # (B,)
    standard_error: Tensor  # (B,) nan with a single probe
    noise: Tensor  # (B, ...) standard normal, if the model is right


def ode_log_prob(
    denoiser: Denoiser, schedule: Schedule, x0: Tensor, probes: Tensor, steps: int = 50
) -> FlowLikelihood:
    """log p(x0) by the change of variables along the probability flow (Song et al. 2021, eq. 39).

    In y = x/(α + σ), u = σ/(α + σ) every path is y = (1 - u)·x0 + u·ε, and its flow dy/du = ε̂ - x̂0
    is finite at both ends. u = u_T·sin²(πs/2) crowds steps at the ends and stands still there; RK4
    in s takes 4·steps evaluations. The divergence is the mean of zᵀ(∂v/∂y)z over `probes` z
    (K, B, ...), of mean 0 and covariance 1: signs of normal draws (Hutchinson 1989), or √D·(unit
    vectors) for the exact trace. Differentiable in x0 and the network where gradients are enabled.
    """
    differentiable = torch.is_grad_enabled()
    top = schedule.level(torch.ones((), dtype=torch.float64))
    u_top = top.sigma / (top.alpha + top.sigma)

    def slope(y: Tensor, s: float) -> tuple[Tensor, Tensor]:
        """dy/ds, and the divergence by each probe (K, B)."""
        u = (u_top * math.sin(math.pi * s / 2) ** 2).clamp(1e-9, 1 - 1e-9)  # du/ds is 0 there
        du = u_top * math.pi / 2 * math.sin(math.pi * s)
        near = schedule.level(schedule.time(2 * ((1 - u).log() - u.log())))
        scale = near.alpha + near.sigma  # beyond the schedule's ends its scale and label stay
        level = Level(near.t, (1 - u) * scale, u * scale)
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            estimate = denoiser(fit(scale, y) * y, level)
            velocity = fit(du, y) * (estimate.eps - estimate.x0)
            pulled = [
                torch.autograd.grad(velocity, y, z, retain_graph=True, create_graph=differentiable)[
                    0
                ]
                for z in probes
            ]
        divergence = (torch.stack(pulled) * probes).flatten(2).sum(2)
        return (velocity, divergence) if differentiable else (velocity.detach(), divergence)

    y, growth, h = x0, torch.zeros(probes.shape[:2], dtype=x0.dtype, device=x0.device), 1 / steps
    for i in range(steps):
        v1, d1 = slope(y, i * h)
        v2, d2 = slope(y + h / 2 * v1, (i + 0.5) * h)
        v3, d3 = slope(y + h / 2 * v2, (i + 0.5) * h)
        v4, d4 = slope(y + h * v3, (i + 1) * h)
        y = y + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        growth = growth + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    unit = torch.hypot(top.alpha, top.sigma) / (top.alpha + top.sigma)  # y's scale under the prior
    noise = y / fit(unit, y)
    nats = 0.5 * (noise**2 + (2 * math.pi * unit**2).log()).flatten(1).sum(1)
    trace, k = growth.mean(0), len(probes)
    error = ((growth - trace).square().sum(0) / (k * (k - 1))).sqrt()
    return FlowLikelihood(trace - nats, error, noise)
