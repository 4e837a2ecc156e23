"""Which noise levels a sampler visits: n of a schedule, noisiest first, and the clean end."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ldm.diffusion.plane import Level, clean, noised
from ldm.diffusion.schedules import Schedule, positions, snap

Grid = Callable[..., list[Level]]  # (schedule, n, **options) -> n + 1 levels


def split(level: Level) -> list[Level]:
    """A Level of (n,) tensors as n levels of scalars."""
    return [Level(*scalars) for scalars in zip(*level, strict=True)]


def whole(n: int, most: int) -> int:
    """n; raises ValueError where that is not between 1 and `most`, a schedule's positions."""
    if not 1 <= n <= most:
        raise ValueError(f"{n} sampling steps; this schedule has between 1 and {most}")
    return n


def entries(schedule: Schedule, index: Tensor) -> list[Level]:
    """The levels at the nearest positions, of a table or of what a path without one counts by."""
    return [*split(schedule.level((index.round() + 1) / positions(schedule))), clean()]


def leading(schedule: Schedule, n: int) -> list[Level]:
    """Every (N/n)-th entry from the first up: DDIM's own, which never visits the noisiest."""
    last = positions(schedule)
    return entries(schedule, _down(whole(n, last)) * (last // n))


def trailing(schedule: Schedule, n: int) -> list[Level]:
    """Every (N/n)-th entry from the noisiest down (Lin et al. 2023, table 2)."""
    last = positions(schedule)
    return entries(schedule, (_down(whole(n, last)) + 1) * (last / n) - 1)


def linspace(schedule: Schedule, n: int) -> list[Level]:
    """Evenly from the noisiest entry to the first, both included."""
    last = positions(schedule)
    return entries(schedule, _down(whole(n, last)) * ((last - 1) / max(1, n - 1)))


def _down(n: int) -> Tensor:
    """n - 1, …, 0."""
    return torch.arange(n, dtype=torch.float64).flip(0)


def karras(
    schedule: Schedule, n: int, rho: float = 7.0, between: tuple[float, float] | None = None
) -> list[Level]:
    """σ/α with σ^(1/ρ) even (Karras et al. 2022, eq. 5), between two σ/α or the schedule's ends.

    On `edm` it is EDM's own grid; ρ = inf is even in log σ.
    """
    whole(n, positions(schedule))
    top, bottom = between or ends(schedule)
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    if rho == math.inf:
        return at_ratios(schedule, math.log(top) + ramp * (math.log(bottom) - math.log(top)))
    root, least = top ** (1 / rho), bottom ** (1 / rho)
    return at_ratios(schedule, rho * (root + ramp * (least - root)).log())


def ends(schedule: Schedule) -> tuple[float, float]:
    """σ/α of the noisiest and the cleanest level, one position further in where it has none."""
    t = snap(schedule, torch.tensor([0.0, 1.0], dtype=torch.float64))
    inner = t.clamp(1 / positions(schedule), 1 - 1 / positions(schedule))
    finite = schedule.level(t).log_snr.isfinite()
    bottom, top = split(schedule.level(torch.where(finite, t, inner)))
    return float(top.sigma / top.alpha), float(bottom.sigma / bottom.alpha)


def at_ratios(schedule: Schedule, log_ratio: Tensor) -> list[Level]:
    """The levels of these log(σ/α)."""
    return [*split(schedule.level(schedule.time(-2 * log_ratio))), clean()]


def renoise(
    x0: Tensor, noise: Tensor, levels: list[Level], strength: float
) -> tuple[Tensor, list[Level]]:
    """Start from a noised image: the last `strength` of the steps, and x at the first of them.

    SDEdit (Meng et al. 2022); counted as diffusers does. To stop early, cut `levels` short.
    """
    steps = len(levels) - 1
    rest = levels[steps - min(int(steps * strength), steps) :]
    return noised(x0, noise, rest[0]), rest


GRIDS: dict[str, Grid] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "karras": karras,
    "edm": karras,
    "exponential": partial(karras, rho=math.inf),
}
