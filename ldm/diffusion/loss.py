"""The training loss: which times are drawn, how levels are weighted, and what is compared."""

from collections.abc import Callable

from torch import Tensor

from ldm.diffusion.plane import Level, Prediction, error_gain, fit, noised, target
from ldm.diffusion.schedules import Schedule

Network = Callable[[Tensor, Level], Tensor]  # (x, level) -> F, conditioning already bound
Weighting = Callable[..., Tensor]  # (level, **options) -> weight on |x̂0 - x0|²
TimeSampler = Callable[..., Tensor]  # (u in [0, 1), schedule, **options) -> t; a quantile function


def uniform(u: Tensor, schedule: Schedule) -> Tensor:
    """t uniform; on a table of N entry floor(u·N), as in DDPM algorithm 1."""
    return schedule.snap(u)


def min_snr(level: Level, gamma: float = 5.0) -> Tensor:
    """min(SNR, γ) in x0-space (Hang et al. 2023, section 3.4): one formula for every prediction."""
    return level.snr.clamp(max=gamma)


TIME_SAMPLERS: dict[str, TimeSampler] = {
    "uniform": uniform,
}

WEIGHTINGS: dict[str, Weighting | None] = {
    "simple": None,  # plain mean squared error on F: DDPM's L_simple where F is ε
    "min_snr": min_snr,
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

    x0 and eps are (B, ...), t is (B,). A weighting is in x0-space and is turned into F's own.
    """
    level = schedule.level(t)
    x = noised(x0, eps, level)
    out = network(fit(prediction.c_in(level), x) * x, level)
    error = (out - target(x0, eps, level, prediction)).square().flatten(1).mean(1)
    if weighting is None:
        return error
    return (weighting(level) / error_gain(level, prediction)).to(error) * error
