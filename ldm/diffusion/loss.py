"""The training loss: which times are drawn, how levels are weighted, and what is compared."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ldm.diffusion.plane import (
    Level,
    Network,
    Prediction,
    error_gain,
    fit,
    noised,
    posterior,
    resolve,
    target,
)
from ldm.diffusion.schedules import Schedule, positions, snap

Weighting = Callable[..., Tensor]  # (level, schedule, **options) -> weight on |x̂0 - x0|²
TimeSampler = Callable[..., Tensor]  # (u in [0, 1), schedule, **options) -> t; a quantile function


def uniform(u: Tensor, schedule: Schedule) -> Tensor:
    """t uniform; on a table of N entry floor(u·N), as in DDPM algorithm 1."""
    return snap(schedule, u)


def lognormal(u: Tensor, schedule: Schedule, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """log σ/α normal (EDM, Karras et al. 2022, table 1)."""
    return snap(schedule, schedule.time(-2 * (mean + std * _normal(u))))


def logit_normal(u: Tensor, schedule: Schedule, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """log t/(1-t) normal (SD3, Esser et al. 2024, eq. 19)."""
    return snap(schedule, (mean + std * _normal(u)).sigmoid())


def _normal(u: Tensor) -> Tensor:
    return torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9))


TIME_SAMPLERS: dict[str, TimeSampler] = {
    "uniform": uniform,
    "lognormal": lognormal,
    "logit_normal": logit_normal,
}


def below(level: Level, schedule: Schedule) -> Level:
    """The level one table step cleaner."""
    return schedule.level((level.t - 1 / positions(schedule)).clamp(min=0))


def vlb(level: Level, schedule: Schedule) -> Tensor:
    """½·(SNR_{t-1} - SNR_t), nats of a step's KL (VDM, Kingma et al. 2021, section 4).

    The first step is DDPM's decoder of variance β_1: ½/σ². In ε-space, λ_t = β²/(2σ²α(1-ᾱ)).
    """
    snr = below(level, schedule).snr
    return torch.where(snr.isinf(), 1 / level.sigma**2, snr - level.snr) / 2


def min_snr(level: Level, schedule: Schedule, gamma: float = 5.0) -> Tensor:
    """min(SNR, γ) (Hang et al. 2023, section 3.4): one formula for every prediction."""
    return level.snr.clamp(max=gamma)


def p2(level: Level, schedule: Schedule, k: float = 1.0, gamma: float = 1.0) -> Tensor:
    """SNR/(k + SNR)^γ: less weight on small noise (P2, Choi et al. 2022)."""
    return level.snr / (k + level.snr) ** gamma


def debiased(level: Level, schedule: Schedule) -> Tensor:
    """√SNR: 1/√SNR on ε (Yu et al. 2023)."""
    return level.snr.sqrt()


def edm(level: Level, schedule: Schedule, sigma_data: float = 0.5) -> Tensor:
    """SNR + 1/σ_data², which is 1 on EDM's F (Karras et al. 2022, table 1)."""
    return level.snr + sigma_data**-2


def sigmoid(level: Level, schedule: Schedule, bias: float = 2.0) -> Tensor:
    """SNR·sigmoid(bias - log SNR), a monotone weighting (VDM++, Kingma & Gao 2023).

    Their w(λ) on ε; the density of λ is the time sampler's.
    """
    return level.snr * (bias - level.log_snr).sigmoid()


WEIGHTINGS: dict[str, Weighting | None] = {
    "simple": None,  # plain mean squared error on F: DDPM's L_simple where F is ε
    "vlb": vlb,
    "min_snr": min_snr,
    "p2": p2,
    "debiased": debiased,
    "edm": edm,
    "sigmoid": sigmoid,
}


def denoising_loss(
    network: Network,
    schedule: Schedule,
    prediction: Prediction,
    x0: Tensor,
    eps: Tensor,
    t: Tensor,
    weighting: Weighting | None = None,
) -> Tensor:
    """Squared error of F, mean over elements, for each of the batch: (B,).

    x0 and eps are (B, ...), t is (B,). A weighting is in x0-space and is turned into F's own. Where
    the network outputs twice x's channels, the second half is the learned variance, and this is
    Improved DDPM's L_hybrid (Nichol & Dhariwal 2021, eq. 16): + 0.001·L_vlb.
    """
    level = schedule.level(t)
    x = noised(x0, eps, level)
    out, *var = network(fit(prediction.c_in(level), x) * x, level).split(x.shape[1], dim=1)
    error = (out - target(x0, eps, level, prediction)).square().flatten(1).mean(1)
    if weighting is not None:
        error = fit(weighting(level, schedule) / error_gain(level, prediction), error) * error
    if var:
        mean = resolve(x, out.detach().to(x), level, prediction).x0  # var alone learns from the VLB
        bits = variance_bits(x0, mean, var[0].to(x), level, below(level, schedule))
        error = error + 0.001 * positions(schedule) * bits.flatten(1).mean(1)
    return error


def variance_bits(x0: Tensor, estimate: Tensor, var: Tensor, a: Level, b: Level) -> Tensor:
    """L_vlb of the step a→b in bits per element, its variance interpolated by var in [-1, 1].

    Improved DDPM eq. 15. A step to the clean level is the decoder's, of variance β.
    """
    small, large = posterior(a, b)
    first = b.sigma == 0
    low = torch.where(first, large, small).log()
    log_var = torch.lerp(fit(low, x0), fit(large.log(), x0), (var + 1) / 2)
    moved = fit(b.alpha * large / a.sigma**2, x0) * (x0 - estimate)
    rest = torch.where(first, math.log(2 * math.pi), -1 - low)
    nats = 0.5 * ((moved**2 + fit(small, x0)) * (-log_var).exp() + log_var + fit(rest, x0))
    return nats / math.log(2)
