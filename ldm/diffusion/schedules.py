"""Noise schedules: paths from data at t = 0 to noise at t = 1, as tables or in closed form."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ldm.diffusion.learned import Learned
from ldm.diffusion.plane import Level, betas_of


class Schedule(Protocol):
    """A path through noise levels. Times are float64 in [0, 1], of any shape; larger is noisier."""

    def level(self, t: Tensor) -> Level:
        """The level at time t."""

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse: the time at which the level has this log-SNR, clamped to [0, 1]."""


def interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear y(x) through the points (xs, ys), xs ascending; constant beyond the ends."""
    i = torch.searchsorted(xs, x.contiguous()).clamp(1, len(xs) - 1)
    w = ((x - xs[i - 1]) / (xs[i] - xs[i - 1])).clamp(0, 1)
    return torch.lerp(ys[i - 1], ys[i], w)


@dataclass(frozen=True, eq=False)
class Discrete:
    """A table of N steps that leave the signal ᾱ (DDPM). Entry n is time t = (n+1)/N.

    Between entries the log-SNR is linear in t, as in k-diffusion; below the first one σ/α falls
    linearly to 0.
    """

    alphas_cumprod: Tensor  # (N,) float64 ᾱ
    log_snrs: Tensor = field(init=False)  # (N,) finite also at zero terminal SNR

    @classmethod
    def of(cls, betas: Tensor, zero_snr: bool = False) -> "Discrete":
        """The table of forward variances β (N,), rescaled to end in pure noise or not."""
        return cls((1 - (zero_terminal_snr(betas) if zero_snr else betas)).cumprod(0))

    def __post_init__(self) -> None:
        bar = self.alphas_cumprod
        some = torch.where(bar > 0, bar, (bar[-2] / 2).clamp(max=2.0**-24))  # for a logarithm
        object.__setattr__(self, "log_snrs", some.log() - (1 - some).log())

    @property
    def steps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def betas(self) -> Tensor:
        """β (N,)."""
        return betas_of(self.alphas_cumprod)

    def level(self, t: Tensor) -> Level:
        index = t * self.steps - 1
        entry = index.round()
        bar, log_snrs = self.alphas_cumprod.to(t.device), self.log_snrs.to(t.device)
        exact = bar[entry.long().clamp(0, self.steps - 1)]
        numbers = torch.arange(self.steps, dtype=torch.float64, device=t.device)
        ratio = (-0.5 * interpolate(index, numbers, log_snrs)).exp() * (index + 1).clamp(0, 1)
        between = 1 / (1 + ratio**2)
        on_entry = ((index - entry).abs() < 1e-6) & (entry >= 0)
        signal = torch.where(on_entry, exact, between)
        noise = torch.where(on_entry, 1 - exact, ratio**2 * between)
        return Level(t, signal.sqrt(), noise.sqrt())

    def time(self, log_snr: Tensor) -> Tensor:
        log_snrs = self.log_snrs.to(log_snr.device)
        numbers = torch.arange(self.steps, dtype=torch.float64, device=log_snr.device)
        index = interpolate(-log_snr, -log_snrs, numbers)
        below = (0.5 * (log_snrs[0] - log_snr)).exp().clamp(max=1)  # (σ/α) / (σ/α)_0
        return (index + below) / self.steps


def positions(schedule: Schedule) -> int:
    """N, where grids speak of entry n at t = (n+1)/N: a table's own; 1000 on other schedules."""
    return schedule.steps if isinstance(schedule, Discrete) else 1000


def snap(schedule: Schedule, t: Tensor) -> Tensor:
    """The time that is trained on for t: a table's next entry, or t itself."""
    if not isinstance(schedule, Discrete):
        return t
    return ((t * schedule.steps).floor() + 1).clamp(max=schedule.steps) / schedule.steps


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """β whose last step is pure noise: √ᾱ shifted and scaled (Lin et al. 2023, algorithm 1)."""
    root = (1 - betas).cumprod(0).sqrt()
    return betas_of(((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2)


def _line(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start, end, steps, dtype=torch.float64)


def linear(
    steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, zero_snr: bool = False
) -> Discrete:
    """β linear in the step (Ho et al. 2020, section 4)."""
    return Discrete.of(_line(beta_start, beta_end, steps), zero_snr)


def scaled_linear(
    steps: int = 1000, beta_start: float = 85e-5, beta_end: float = 0.012, zero_snr: bool = False
) -> Discrete:
    """√β linear in the step: latent diffusion (Rombach et al. 2022), there called "linear"."""
    return Discrete.of(_line(beta_start**0.5, beta_end**0.5, steps) ** 2, zero_snr)


def sigmoid(
    steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, zero_snr: bool = False
) -> Discrete:
    """β along a logistic curve from -6 to 6 (GeoDiff, Xu et al. 2022)."""
    rise = _line(-6, 6, steps).sigmoid()
    return Discrete.of(rise * (beta_end - beta_start) + beta_start, zero_snr)


def cosine(steps: int = 1000, max_beta: float = 0.999, zero_snr: bool = False) -> Discrete:
    """ᾱ = cos²((t + 0.008)/1.008 · π/2), β capped (Nichol & Dhariwal 2021, eq. 17)."""
    bar = ((_line(0, 1, steps + 1) + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    return Discrete.of((1 - bar[1:] / bar[:-1]).clamp(max=max_beta), zero_snr)


def table(betas: Sequence[float], zero_snr: bool = False) -> Discrete:
    """Any β that are given as numbers."""
    return Discrete.of(torch.tensor(betas, dtype=torch.float64), zero_snr)


@dataclass(frozen=True)
class Cosine:
    """α = cos φ, σ = sin φ, the angle φ linear in t from arccos s_max to arccos s_min.

    The signal rates of Keras' DDIM (Béres 2022); s_max = 1, s_min = 0 is the cosine path of
    v-diffusion (Salimans & Ho 2022).
    """

    s_max: float = 0.95
    s_min: float = 0.02

    def _angles(self) -> tuple[float, float]:
        return math.acos(self.s_max), math.acos(self.s_min)

    def level(self, t: Tensor) -> Level:
        start, end = self._angles()
        # sin(π/2 - φ) is cos φ, and exactly 0 at φ = π/2
        angle, co = start + t * (end - start), (math.pi / 2 - start) + t * (start - end)
        return Level(t, co.sin(), angle.sin())

    def time(self, log_snr: Tensor) -> Tensor:
        start, end = self._angles()
        return (((-log_snr / 2).exp().atan() - start) / (end - start)).clamp(0, 1)


@dataclass(frozen=True)
class Flow:
    """Straight lines: σ = s·t/(1 + (s-1)·t), α = 1 - σ, with `shift` s for the resolution.

    Rectified flow (Liu et al. 2022) and SD3 (Esser et al. 2024) eq. 23.
    """

    shift: float = 1.0

    def level(self, t: Tensor) -> Level:
        scale = 1 + (self.shift - 1) * t
        return Level(t, (1 - t) / scale, self.shift * t / scale)

    def time(self, log_snr: Tensor) -> Tensor:
        sigma = (-log_snr / 2).sigmoid()
        return sigma / (self.shift - (self.shift - 1) * sigma)


@dataclass(frozen=True)
class VE:
    """Variance exploding: α = 1, log σ linear in t (Song et al. 2021)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def level(self, t: Tensor) -> Level:
        log_min, log_max = math.log(self.sigma_min), math.log(self.sigma_max)
        return Level(t, torch.ones_like(t), (log_min + t * (log_max - log_min)).exp())

    def time(self, log_snr: Tensor) -> Tensor:
        log_min, log_max = math.log(self.sigma_min), math.log(self.sigma_max)
        return ((-log_snr / 2 - log_min) / (log_max - log_min)).clamp(0, 1)


@dataclass(frozen=True)
class VP:
    """Variance preserving: α = exp(-½∫β), β linear in t, σ² = 1 - α² (Song et al. 2021, app. C)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _integral(self, t: Tensor) -> Tensor:
        """∫β from 0 to t."""
        return self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t**2

    def _inverse(self, integral: Tensor) -> Tensor:
        integral = integral.clamp(max=(self.beta_min + self.beta_max) / 2)
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral).sqrt()
        return 2 * integral / (self.beta_min + root)

    def level(self, t: Tensor) -> Level:
        integral = self._integral(t)
        return Level(t, (-integral / 2).exp(), (-(-integral).expm1()).sqrt())

    def time(self, log_snr: Tensor) -> Tensor:
        return self._inverse(torch.nn.functional.softplus(-log_snr, threshold=math.inf))


@dataclass(frozen=True)
class SubVP(VP):
    """The sub-VP SDE's path: VP's α with σ = 1 - α² (Song et al. 2021, app. C)."""

    def level(self, t: Tensor) -> Level:
        integral = self._integral(t)
        return Level(t, (-integral / 2).exp(), -(-integral).expm1())

    def time(self, log_snr: Tensor) -> Tensor:
        return self._inverse(2 * (0.5 * (-log_snr / 2).exp()).asinh())


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "table": table,
    "continuous_cosine": Cosine,
    "flow": Flow,
    "ve": VE,
    "edm": VE,
    "vp": VP,
    "sub_vp": SubVP,
    "learned": Learned,
}
