"""Guidance: networks or denoisers made from others, and therefore usable wherever those are."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ldm.diffusion.loss import Network
from ldm.diffusion.plane import Level

Scale = float | Callable[[Level], float]


def cfg(
    cond: Network,
    uncond: Network,
    scale: Scale,
    interval: tuple[float, float] = (0.0, math.inf),
    rescale: float = 0.0,
    pair: Callable[[Tensor, Level], tuple[Tensor, Tensor]] | None = None,
) -> Network:
    """Classifier-free guidance F = F_u + scale·(F_c - F_u) (Ho & Salimans 2022, eq. 6).

    `scale` may depend on the level. Outside `interval`, in σ/α, the conditional network stands
    alone (Kynkäänniemi et al. 2024). `rescale` pulls F's standard deviation back to the
    conditional's (Lin et al. 2023, eq. 15-16). A negative prompt is `uncond` with that prompt.
    `pair` gives (F_c, F_u) from one call. Channels beyond x's, a learned variance, are F_c's.
    """

    def guided(x: Tensor, level: Level) -> Tensor:
        ratio = float(level.sigma / level.alpha)
        s = scale(level) if callable(scale) else scale
        if s == 1 or not interval[0] <= ratio <= interval[1]:
            return cond(x, level)
        if s == 0:
            return uncond(x, level)
        out, base = pair(x, level) if pair else (cond(x, level), uncond(x, level))
        channels = x.shape[1]
        f_c, f_u = out[:, :channels], base[:, :channels]
        f = f_u + s * (f_c - f_u)
        if rescale:
            dims = tuple(range(1, f.ndim))
            matched = f * (f_c.std(dims, keepdim=True) / f.std(dims, keepdim=True))
            f = rescale * matched + (1 - rescale) * f
        return torch.cat([f, out[:, channels:]], dim=1)

    return guided
