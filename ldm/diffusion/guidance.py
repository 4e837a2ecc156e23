"""Guidance: networks or denoisers made from others, and therefore usable wherever those are."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm.diffusion.plane import Denoiser, Estimate, Level, Network, fit

Scale = float | Callable[[Level], float]
LogProb = Callable[[Tensor, Level], Tensor]
EVERYWHERE = (0.0, math.inf)  # an interval of σ/α


def cfg(
    cond: Network,
    uncond: Network,
    scale: Scale,
    interval: Sequence[float] = EVERYWHERE,
    rescale: float = 0.0,
    pair: Callable[[Tensor, Level], tuple[Tensor, Tensor]] | None = None,
) -> Network:
    """Classifier-free guidance F = F_u + scale·(F_c - F_u) (Ho & Salimans 2022, eq. 6).

    `scale` may depend on the level. Outside `interval`, in σ/α, the conditional network stands
    alone (Kynkäänniemi et al. 2024). `rescale` pulls F's standard deviation back to the
    conditional's (Lin et al. 2023, eq. 15-16). A negative prompt is `uncond` with that prompt;
    autoguidance is a weaker network in its place (Karras et al. 2024). `pair` gives
    (F_c, F_u) from one call. A learned variance is guided along, as in diffusers' pipelines.
    """

    def guided(x: Tensor, level: Level) -> Tensor:
        s = scale(level) if callable(scale) else scale
        if s == 1 or not within(level, interval):
            return cond(x, level)
        if s == 0:
            return uncond(x, level)
        f_c, f_u = pair(x, level) if pair else (cond(x, level), uncond(x, level))
        f = f_u + s * (f_c - f_u)
        if rescale:
            dims = tuple(range(1, f.ndim))
            matched = f * (f_c.std(dims, keepdim=True) / f.std(dims, keepdim=True))
            f = rescale * matched + (1 - rescale) * f
        return f

    return guided


def within(level: Level, interval: Sequence[float]) -> bool:
    """Whether a level's σ/α lies in `interval`, its ends included."""
    return interval[0] <= float(level.sigma / level.alpha) <= interval[1]


def perturbed(guided: Network, cond: Network, worse: Network, scale: Scale) -> Network:
    """F + scale·(F_c - F_worse): perturbed-attention guidance (Ahn et al. 2024).

    `worse` is `cond` with its self-attention maps replaced by the identity; `guided` is `cond`, or
    cfg of it.
    """

    def both(x: Tensor, level: Level) -> Tensor:
        s = scale(level) if callable(scale) else scale
        f = guided(x, level)
        return f if s == 0 else f + s * (cond(x, level) - worse(x, level))

    return both


def steer(denoise: Denoiser, log_prob: LogProb, scale: float = 1.0) -> Denoiser:
    """Classifier guidance: the score + scale·∇ log p(y | x) (Dhariwal & Nichol 2021, section 4).

    `log_prob(x, level)` gives (B,) and knows noisy x.
    """

    def steered(x: Tensor, level: Level) -> Estimate:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(log_prob(leaf, level).sum(), leaf)
        return _pushed(denoise(x, level), scale * gradient, level)

    return steered


def steer_x0(denoise: Denoiser, log_prob: Callable[[Tensor], Tensor], scale: float) -> Denoiser:
    """The same with log p(y | x̂0(x)), its gradient taken through the denoiser.

    For what knows clean images alone: CLIP guidance (GLIDE, Nichol et al. 2022, section 2.4) is
    log_prob = similarity(embed(decode(x̂0)), text); also DPS (Chung et al. 2023).
    """

    def steered(x: Tensor, level: Level) -> Estimate:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            estimate = denoise(leaf, level)
            (gradient,) = torch.autograd.grad(log_prob(estimate.x0).sum(), leaf)
        estimate = estimate._replace(x0=estimate.x0.detach(), eps=estimate.eps.detach())
        return _pushed(estimate, scale * gradient, level)

    return steered


def _pushed(estimate: Estimate, gradient: Tensor, level: Level) -> Estimate:
    """The estimate whose score is larger by `gradient`; at α = 0 x says nothing of x0 or y."""
    gain = torch.where(level.alpha > 0, level.sigma**2 / level.alpha, 0.0)
    x0 = estimate.x0 + fit(gain, gradient) * gradient
    return estimate._replace(x0=x0, eps=estimate.eps - fit(level.sigma, gradient) * gradient)
