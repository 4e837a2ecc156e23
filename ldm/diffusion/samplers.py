"""Solvers: generators that walk down a list of noise levels and yield x after each step.

x is at levels[0] and ends at levels[-1]. `noise(i)` gives the standard normal draw of step i, like
x, so that each image can have a seed of its own; deterministic solvers ignore it.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ldm.diffusion.denoise import Denoiser
from ldm.diffusion.plane import Estimate, Level, fit, posterior

Noise = Callable[[int], Tensor]
Sampler = Callable[..., Iterator[Tensor]]  # (denoiser, x, levels, noise=None, **options)


def step(estimate: Estimate, b: Level, std: Tensor, z: Tensor | None = None) -> Tensor:
    """x_b = α_b·x̂0 + √(σ_b² - std²)·ε̂ + std·z: DDIM (Song et al. 2021) eq. 12, on any path."""
    x0, eps = estimate.x0, estimate.eps
    kept = (b.sigma**2 - std**2).clamp(min=0).sqrt()
    x = fit(b.alpha, x0) * x0 + fit(kept, x0) * eps
    return x if z is None else x + fit(std, x0) * z


def _fresh(std: Tensor, noise: Noise | None, i: int) -> Tensor | None:
    if not std.any():
        return None
    if noise is None:
        raise ValueError("this sampler draws noise: pass noise=(step index -> normal draw like x)")
    return noise(i)


def ancestral(
    denoiser: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    noise: Noise | None = None,
    eta: float = 0.0,
    targets: Sequence[Level] | None = None,
) -> Iterator[Tensor]:
    """Fresh noise of standard deviation η·√β̃ at each step (DDIM eq. 16).

    η = 0 is DDIM, which is Euler's method on the probability flow of every path, also a flow
    model's; η = 1 is Euler ancestral, and DDPM with the small variance. `targets` are the levels
    that steps end on where the next step does not start from them: a quirk of diffusers' DDIM.
    """
    for i, (a, b) in enumerate(zip(levels[:-1], targets or levels[1:], strict=True)):
        std = eta * posterior(a, b)[0].sqrt()
        x = step(denoiser(x, a), b, std, _fresh(std, noise, i))
        yield x


def euler(
    denoiser: Denoiser, x: Tensor, levels: Sequence[Level], noise: Noise | None = None
) -> Iterator[Tensor]:
    """Euler's method in σ/α (Karras et al. 2022, algorithm 1 without its second half): DDIM."""
    return ancestral(denoiser, x, levels)


def ddpm(
    denoiser: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    noise: Noise | None = None,
    variance: str = "small",
) -> Iterator[Tensor]:
    """Draw from p(x_b | x_a) around the posterior mean (DDPM eq. 7); no noise on the last step.

    `variance` is small (β̃), large (β) or learned (between them, Improved DDPM eq. 15).
    """
    for i, (a, b) in enumerate(pairwise(levels)):
        estimate = denoiser(x, a)
        small, large = posterior(a, b)
        x = step(estimate, b, small.sqrt())
        if b.sigma > 0:
            assert noise is not None
            x = x + spread(estimate, small, large, variance) * noise(i)
        yield x


def spread(estimate: Estimate, small: Tensor, large: Tensor, variance: str) -> Tensor:
    """The reverse step's standard deviation."""
    if variance == "learned":
        if estimate.var is None:
            raise ValueError("variance=learned needs a network with twice the channels of x")
        share = (estimate.var + 1) / 2
        low, high = fit(small.log(), share), fit(large.log(), share)
        return (0.5 * torch.lerp(low, high, share)).exp()
    return fit({"small": small, "large": large}[variance].sqrt(), estimate.x0)


def heun(
    denoiser: Denoiser, x: Tensor, levels: Sequence[Level], noise: Noise | None = None
) -> Iterator[Tensor]:
    """Heun's second-order method (Karras et al. 2022, algorithm 1), two evaluations a step.

    Its error depends on the frame y = x/s, u = σ/s in which the slope is averaged: s = α for VP and
    VE (dy/du = ε), s = α + σ = 1 on straight paths (dy/du = ε - x0), which is finite at α = 0.
    """
    for a, b in pairwise(levels):
        straight = (a.alpha + a.sigma - 1).abs() < 1e-9
        s_a, s_b = (c.alpha + c.sigma * straight for c in (a, b))

        def slope(estimate: Estimate, straight: Tensor = straight) -> Tensor:
            return estimate.eps - estimate.x0 if straight else estimate.eps

        first = denoiser(x, a)
        ahead = step(first, b, torch.zeros_like(b.sigma))
        if b.sigma == 0:
            x = ahead
        else:
            mean = (slope(first) + slope(denoiser(ahead, b))) / 2
            du = b.sigma / s_b - a.sigma / s_a
            x = fit(s_b / s_a, x) * x + fit(s_b * du, x) * mean
        yield x


def dpmpp_2m(
    denoiser: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    noise: Noise | None = None,
    eta: float = 0.0,
    lower_order_final: bool = True,
) -> Iterator[Tensor]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): `ancestral` with x̂0 extrapolated in log-SNR.

    η = 0 is the ODE solver, η = 1 the SDE one. First-order on the first step, on a last step that
    ends clean, and on any last step of fewer than 15 where `lower_order_final`.
    """
    last, before = len(levels) - 2, None
    for i, (a, b) in enumerate(pairwise(levels)):
        x0 = extrapolated = denoiser(x, a).x0
        h = (b.log_snr - a.log_snr) / 2
        first_order = i == last and (b.sigma == 0 or (lower_order_final and last < 14))
        if before is not None and not first_order:
            extrapolated = x0 + fit(h / (2 * before[0]), x) * (x0 - before[1])
        eps = fit(1 / a.sigma, x) * x - fit(a.alpha / a.sigma, x) * extrapolated
        std = eta * posterior(a, b)[0].sqrt()
        x = step(Estimate(extrapolated, eps), b, std, _fresh(std, noise, i))
        before = h, x0
        yield x


SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ancestral,
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
}
