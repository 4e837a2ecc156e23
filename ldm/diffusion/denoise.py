"""From networks to denoisers, and functions that turn a denoiser into another one."""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm.diffusion.plane import (
    Denoiser,
    Estimate,
    Label,
    Level,
    Network,
    Noise,
    Prediction,
    fit,
    noised,
    resolve,
)
from ldm.diffusion.schedules import Schedule


def drawn(noise: Noise | None, i: int) -> Tensor:
    """The draw of step i; raises ValueError where a sampler that needs noise was given none."""
    if noise is None:
        raise ValueError("this sampler draws noise: pass noise=(step index -> normal draw like x)")
    return noise(i)


def check(schedule: Schedule, prediction: Prediction) -> None:
    """Raise ValueError where the noisiest level cannot be resolved: ε at zero terminal SNR."""
    last = schedule.level(torch.ones((), dtype=torch.float64))
    if prediction.det(last) == 0:
        raise ValueError(
            "a network that predicts ε says nothing of x0 where α = 0, and this schedule ends "
            "there (zero terminal SNR): choose prediction v, sample or flow, or another schedule"
        )


def denoiser(network: Network, schedule: Schedule, prediction: Prediction) -> Denoiser:
    """The denoiser (x, level) -> Estimate of a network that outputs F.

    Where F has twice x's channels (dim 1), the second half is the learned variance. Raises
    ValueError for ε-prediction with zero terminal SNR.
    """
    check(schedule, prediction)

    def denoise(x: Tensor, level: Level) -> Estimate:
        out = network(fit(prediction.c_in(level), x) * x, level).to(x.dtype)
        if x.ndim > 1 and out.shape[1] == 2 * x.shape[1]:
            out, var = out.chunk(2, dim=1)
            return resolve(x, out, level, prediction)._replace(var=var)
        return resolve(x, out, level, prediction)

    return denoise


def rederived(x: Tensor, x0: Tensor, level: Level) -> Tensor:
    """The ε that makes x of x0: (x - α·x0)/σ."""
    return fit(1 / level.sigma, x) * x - fit(level.alpha / level.sigma, x) * x0


def _changed(denoise: Denoiser, change: Callable[[Tensor], Tensor], rederive: bool) -> Denoiser:
    """Change x̂0; keep ε̂ as it was (DDIM), or let it follow from x and the new x̂0 (DDPM)."""

    def changed(x: Tensor, level: Level) -> Estimate:
        estimate = denoise(x, level)
        x0, eps = change(estimate.x0), estimate.eps
        return estimate._replace(x0=x0, eps=rederived(x, x0, level) if rederive else eps)

    return changed


def clamp(denoise: Denoiser, limit: float = 1.0, rederive: bool = True) -> Denoiser:
    """Keep x̂0 within ±limit; `rederive` as DDPM does, False as DDIM does."""
    return _changed(denoise, lambda x0: x0.clamp(-limit, limit), rederive)


def threshold(
    denoise: Denoiser, ratio: float = 0.995, largest: float = 1.0, rederive: bool = True
) -> Denoiser:
    """Dynamic thresholding: clip x̂0 at its own quantile s in [1, largest] and divide by s.

    Imagen (Saharia et al. 2022), section 2.3.
    """

    def squeeze(x0: Tensor) -> Tensor:
        size = x0.flatten(1).abs().to(torch.promote_types(x0.dtype, torch.float32))
        s = size.quantile(ratio, dim=1).clamp(1, largest)  # which wins over 1
        s = fit(s, x0)
        return x0.clamp(-s, s) / s

    return _changed(denoise, squeeze, rederive)


def boundary(
    denoise: Denoiser, label: Label, scaling: float = 10.0, sigma_data: float = 0.5
) -> Denoiser:
    """c_skip·x + c_out·x̂0 in place of x̂0, so that label 0 is the identity.

    Consistency models (Song et al. 2023, eq. 5 and appendix C) with LCM's scaled labels (Luo et al.
    2023); ε̂ is what follows.
    """

    def consistent(x: Tensor, level: Level) -> Estimate:
        s = label(level) * scaling
        c_skip, c_out = sigma_data**2 / (s**2 + sigma_data**2), s / (s**2 + sigma_data**2).sqrt()
        estimate = denoise(x, level)
        x0 = fit(c_skip, x) * x + fit(c_out, x) * estimate.x0
        return estimate._replace(x0=x0, eps=rederived(x, x0, level))

    return consistent


def inpaint(
    denoise: Denoiser, known: Tensor, noise: Tensor, mask: Tensor, start: Level | None = None
) -> Denoiser:
    """Paint where `mask` is 1; elsewhere x0 is `known` and ε is `noise`, at every level.

    The replacement method (Song et al. 2021, appendix I.2), with one noise for the whole path. At
    the level `start` the network sees x as it is: from pure noise diffusers' pipelines begin so.
    """

    def painted(x: Tensor, level: Level) -> Estimate:
        if level is not start:
            x = torch.lerp(noised(known, noise, level), x, mask)
        estimate = denoise(x, level)
        x0, eps = torch.lerp(known, estimate.x0, mask), torch.lerp(noise, estimate.eps, mask)
        return estimate._replace(x0=x0, eps=eps)

    return painted
