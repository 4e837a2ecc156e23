"""The score view: an estimate as ∇ log q(x_t), a schedule as the SDE with its marginals."""

import torch
from torch import Tensor

from ldm.diffusion.plane import Estimate, Level, fit
from ldm.diffusion.schedules import Schedule


def score(estimate: Estimate, level: Level) -> Tensor:
    """∇ log q(x_t) = -E[ε | x_t]/σ, for σ > 0 (Vincent 2011; Song et al. 2021, section 3.3)."""
    return fit(-1 / level.sigma, estimate.eps) * estimate.eps


def tweedie(x: Tensor, score: Tensor, level: Level) -> Estimate:
    """The inverse, Tweedie's formula: E[x0 | x] = (x + σ²·∇ log q(x))/α (Efron 2011, eq. 1.4)."""
    noise_variance = fit(level.sigma**2, x)
    return Estimate(
        x0=(x + noise_variance * score) / fit(level.alpha, x),
        eps=fit(-level.sigma, x) * score,
    )


def sde(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """Drift f and diffusion g of dx = f·x dt + g dw, for t strictly inside (0, 1).

    The linear SDE with the schedule's marginals: f = (log α)′, g² = (σ²)′ - 2fσ² = -σ²·λ′
    (DPM-Solver, Lu et al. 2022, section 2). On `ve`, `vp` and `sub_vp` these are the three of Song
    et al. 2021, eq. 9, 11 and 12. A table is differentiated between its entries.
    """

    def logs(t: Tensor) -> tuple[Tensor, Tensor]:
        level = schedule.level(t)
        return level.alpha.log(), level.log_snr

    drift, rate = torch.func.jvp(logs, (t,), (torch.ones_like(t),))[1]
    return drift, schedule.level(t).sigma * (-rate).sqrt()


def reverse_drift(
    x: Tensor, estimate: Estimate, schedule: Schedule, level: Level, eta: float = 1.0
) -> Tensor:
    """f·x - ½(1 + η²)·g²·∇ log q: time runs down, with η·g of noise, through the same marginals.

    η = 1 is Anderson's reverse SDE (Song et al. 2021, eq. 6), η = 0 the probability flow (eq. 13).
    """
    drift, diffusion = sde(schedule, level.t)
    pull = 0.5 * (1 + eta**2) * diffusion**2
    return fit(drift, x) * x - fit(pull, x) * score(estimate, level)
