"""Gaussian diffusion: x = α·x0 + σ·ε, on tensors (B, ...) of any rank.

Schedules, predictions, grids and samplers are values in a plane and entries of a registry; a
network becomes a denoiser, and whatever changes a denoiser gives another one. In full:

    schedule, prediction = SCHEDULES["scaled_linear"](), PREDICTIONS["v"]
    loss = denoising_loss(network, schedule, prediction, x0, eps, t).mean()

    denoise = denoiser(network, schedule, prediction)
    levels = GRIDS["trailing"](schedule, 20)
    *_, end = SAMPLERS["dpmpp_2m"](denoise, noise, levels)  # a State a step; end.x is x0

`network(x, level)` is any function; `Contract.of(schedule, prediction).network(unet)` is one that
tells a U-Net its label. A schedule is any object with `level` and `time`. torch is all that this
package imports.
"""

from ldm.diffusion.contract import Contract
from ldm.diffusion.denoise import clamp, denoiser, inpaint, threshold
from ldm.diffusion.exact import mixture
from ldm.diffusion.grids import GRIDS, renoise
from ldm.diffusion.guidance import cfg, steer
from ldm.diffusion.likelihood import elbo, ode_log_prob
from ldm.diffusion.loss import TIME_SAMPLERS, WEIGHTINGS, denoising_loss
from ldm.diffusion.plane import (
    PREDICTIONS,
    Denoiser,
    Estimate,
    Level,
    Network,
    Noise,
    Prediction,
    State,
    noised,
    resolve,
)
from ldm.diffusion.samplers import SAMPLERS, Sampler
from ldm.diffusion.schedules import SCHEDULES, Schedule

__all__ = [
    "GRIDS",
    "PREDICTIONS",
    "SAMPLERS",
    "SCHEDULES",
    "TIME_SAMPLERS",
    "WEIGHTINGS",
    "Contract",
    "Denoiser",
    "Estimate",
    "Level",
    "Network",
    "Noise",
    "Prediction",
    "Sampler",
    "Schedule",
    "State",
    "cfg",
    "clamp",
    "denoiser",
    "denoising_loss",
    "elbo",
    "inpaint",
    "mixture",
    "noised",
    "ode_log_prob",
    "renoise",
    "resolve",
    "steer",
    "threshold",
]
