"""Solvers: generators that walk down a list of noise levels and yield a State after each step.

x is at levels[0] and ends at levels[-1]. `noise(i)` gives the standard normal draw of step i, like
x, so that each image can have a seed of its own; deterministic solvers ignore it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ldm.diffusion.denoise import drawn, rederived
from ldm.diffusion.langevin import langevin, predictor_corrector
from ldm.diffusion.plane import Denoiser, Estimate, Level, Noise, State, fit, posterior, step

PURE_NOISE = 1e-3  # α; above what stands in for 0 (2⁻¹²), below the noisiest of EDM's (1/80)

Solver = Callable[..., Iterator[State]]  # (denoiser, x, levels, noise=None, **options)


@dataclass(frozen=True)
class Sampler:
    """A solver under a name: called it solves, and it says what else is to be known of it."""

    solve: Solver
    noise: bool = False  # whether it draws any, its options being these
    paired: bool = False  # a draw is of a step from one level to the next, as `brownian` needs
    options: Mapping[str, Any] = field(default_factory=dict)  # where not the solver's defaults
    rederive: bool = True  # where x̂0 is clipped ε̂ follows from it; DDIM's stays
    takes_eta: bool = False  # an `eta` told to any sampler is for this one, as in diffusers

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        levels: Sequence[Level],
        noise: Noise | None = None,
        **options: Any,
    ) -> Iterator[State]:
        return self.solve(denoiser, x, levels, noise=noise, **{**self.options, **options})

    @property
    def defaults(self) -> dict[str, Any]:
        """Every option it has, with its default."""
        given = {k: p.default for k, p in signature(self.solve).parameters.items() if k != "noise"}
        found = {k: v for k, v in given.items() if v is not Parameter.empty}
        return {**found, **self.options}

    def asked(self, levels: Sequence[Level], **options: Any) -> list[Level]:
        """The level of each call of the denoiser on the way down these: found by walking it."""
        seen: list[Level] = []

        def listen(x: Tensor, level: Level) -> Estimate:
            seen.append(level)
            return Estimate(x, x, x)

        nothing = torch.zeros(1, 1, dtype=torch.float64)
        for _ in self(listen, nothing, levels, lambda i: nothing, **options):
            pass
        return seen


def _fresh(std: Tensor, noise: Noise | None, i: int) -> Tensor | None:
    return drawn(noise, i) if std.any() else None


def ancestral(
    denoiser: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    noise: Noise | None = None,
    eta: float = 0.0,
) -> Iterator[State]:
    """Fresh noise of standard deviation η·√β̃ at each step (DDIM eq. 16).

    η = 0 is DDIM, which is Euler's method on the probability flow of every path, also a flow
    model's; η = 1 is Euler ancestral, and DDPM with the small variance.
    """
    for i, (a, b) in enumerate(pairwise(levels)):
        std = eta * posterior(a, b)[0].sqrt()
        estimate = denoiser(x, a)
        x = step(estimate, b, std, _fresh(std, noise, i))
        yield State(x, b, estimate)


def ddpm(
    denoiser: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    noise: Noise | None = None,
    variance: str = "small",
) -> Iterator[State]:
    """Draw from p(x_b | x_a) around the posterior mean (DDPM eq. 7); no noise on the last step.

    `variance` is small (β̃), large (β) or learned (between them, Improved DDPM eq. 15).
    """
    for i, (a, b) in enumerate(pairwise(levels)):
        estimate = denoiser(x, a)
        small, large = posterior(a, b)
        x = step(estimate, b, small.sqrt())
        if (z := _fresh(small, noise, i)) is not None:
            x = x + spread(estimate, small, large, variance) * z
        yield State(x, b, estimate)


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
) -> Iterator[State]:
    """Heun's second-order method (Karras et al. 2022, algorithm 1), two evaluations a step.

    Its error depends on the frame y = x/s, u = σ/s in which the slope is averaged: s = α for VP and
    VE (dy/du = ε), s = α + σ on straight paths and from pure noise (dy/du = ε - x0), as the other u
    grows without end towards α = 0 and the network's errors with it.
    """
    for a, b in pairwise(levels):
        straight = ((a.alpha + a.sigma - 1).abs() < 1e-9) | (a.alpha < PURE_NOISE)
        s_a, s_b = (c.alpha + c.sigma * straight for c in (a, b))

        def slope(estimate: Estimate, straight: Tensor = straight) -> Tensor:
            return estimate.eps - estimate.x0 if straight else estimate.eps

        first = denoiser(x, a)
        ahead = step(first, b)
        if b.sigma == 0:
            x = ahead
        else:
            mean = (slope(first) + slope(denoiser(ahead, b))) / 2
            du = b.sigma / s_b - a.sigma / s_a
            x = fit(s_b / s_a, x) * x + fit(s_b * du, x) * mean
        yield State(x, b, first)


def dpmpp_2m(
    denoiser: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    noise: Noise | None = None,
    eta: float = 0.0,
    lower_order_final: bool = True,
) -> Iterator[State]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): `ancestral` with x̂0 extrapolated in log-SNR.

    η = 0 is the ODE solver, η = 1 the SDE one. First-order on the first step, on a last step that
    ends clean, and on any last step where `lower_order_final`.
    """
    last, before = len(levels) - 2, None
    for i, (a, b) in enumerate(pairwise(levels)):
        believed = denoiser(x, a)
        x0 = ahead = believed.x0
        h = (b.log_snr - a.log_snr) / 2
        first_order = i == last and (b.sigma == 0 or lower_order_final)
        if before is not None and not first_order:
            ahead = x0 + fit(h / (2 * before[0]), x) * (x0 - before[1])
        std = eta * posterior(a, b)[0].sqrt()
        estimate = Estimate(ahead, rederived(x, ahead, a))
        x, before = step(estimate, b, std, _fresh(std, noise, i)), (h, x0)
        yield State(x, b, believed)


def unipc(
    denoiser: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    noise: Noise | None = None,
    lower_order_final: bool = True,
) -> Iterator[State]:
    """UniPC of order 2 with B₂(h), data prediction (Zhao et al. 2023); one evaluation a step.

    Its predictor is DPM-Solver++(2M); x̂0 at the level reached then corrects the step that led
    there. Both are DDIM steps from x with an x̂0 of their own.
    """
    steps = len(levels) - 1
    known: list[tuple[Level, Tensor, Tensor]] = []  # levels with their corrected x and x̂0
    for i, (a, b) in enumerate(pairwise(levels)):
        believed = denoiser(x, a)
        x0 = believed.x0
        if known:
            x = _corrected(known, a, x0, min(2, i, steps - i + 1 if lower_order_final else 2))
        ahead = x0
        if i > 0 and b.sigma > 0 and not (lower_order_final and i == steps - 1):
            s, _, x0_s = known[-1]
            ahead = x0 + fit((b.log_snr - a.log_snr) / (a.log_snr - s.log_snr) / 2, x) * (x0 - x0_s)
        known = [*known[-1:], (a, x, x0)]
        x = step(Estimate(ahead, rederived(x, ahead, a)), b)
        yield State(x, b, believed)


def _corrected(
    known: list[tuple[Level, Tensor, Tensor]], b: Level, x0_b: Tensor, order: int
) -> Tensor:
    """UniC: the step from the last known level to b again, now that x̂0 at b is known."""
    a, x, x0 = known[-1]
    if order == 1:
        mean = (x0 + x0_b) / 2
    else:
        h = (b.log_snr - a.log_snr) / 2
        r = (known[0][0].log_snr - a.log_snr) / 2 / h
        phi1 = torch.expm1(-h)
        phi2 = -phi1 / h - 1
        phi3 = -phi2 / h - 0.5
        rho = (phi2 - 2 * phi3) / phi1 / (1 - r)
        mean = x0 + fit(rho / r, x) * (known[0][2] - x0) + fit(phi2 / phi1 - rho, x) * (x0_b - x0)
    return step(Estimate(mean, rederived(x, mean, a)), b)


def consistency(
    denoiser: Denoiser, x: Tensor, levels: Sequence[Level], noise: Noise | None = None
) -> Iterator[State]:
    """Multistep consistency sampling: x̂0, noised afresh (Song et al. 2023, algorithm 1).

    With the `boundary` that latent consistency models are trained with, this is LCM's sampler.
    """
    for i, (a, b) in enumerate(pairwise(levels)):
        estimate = denoiser(x, a)
        x = step(estimate, b, b.sigma, _fresh(b.sigma, noise, i))
        yield State(x, b, estimate)


SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler(ddpm, noise=True, paired=True),
    "ddim": Sampler(ancestral, paired=True, rederive=False, takes_eta=True),
    "euler": Sampler(ancestral, paired=True),
    "euler_ancestral": Sampler(ancestral, noise=True, paired=True, options={"eta": 1.0}),
    "heun": Sampler(heun),
    "dpmpp_2m": Sampler(dpmpp_2m, paired=True),
    "dpmpp_2m_sde": Sampler(dpmpp_2m, noise=True, paired=True, options={"eta": 1.0}),
    "unipc": Sampler(unipc),
    "consistency": Sampler(consistency, noise=True),
    "langevin": Sampler(langevin, noise=True),
    "predictor_corrector": Sampler(predictor_corrector, noise=True),
}
