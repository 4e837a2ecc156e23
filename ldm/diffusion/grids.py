"""Which noise levels a sampler visits: n of a schedule, noisiest first, and the clean end."""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm.diffusion.plane import Level, clean
from ldm.diffusion.schedules import Schedule, interpolate

Grid = Callable[..., list[Level]]  # (schedule, n, **options) -> n + 1 levels


def split(level: Level) -> list[Level]:
    """A Level of (n,) tensors as n levels of scalars."""
    return [Level(*scalars) for scalars in zip(*level, strict=True)]


def _count(schedule: Schedule, n: int, extra: int = 0) -> int:
    if not 1 <= n <= schedule.steps - extra:
        raise ValueError(f"{n} sampling steps; this schedule has between 1 and {schedule.steps}")
    return n + extra


def _visit(schedule: Schedule, index: Tensor) -> list[Level]:
    """The levels at the nearest table positions, which label continuous schedules too."""
    return [*split(schedule.level((index.round() + 1) / schedule.steps)), clean()]


def leading(schedule: Schedule, n: int, offset: int = 0, extra: int = 0) -> list[Level]:
    """Every (N/n)-th entry from `offset` up: DDIM's own spacing, which never visits the noisiest.

    With `extra` = 1 the n + 1 points are spaced and the cleanest is dropped, as DPM-Solver does.
    """
    n = _count(schedule, n, extra)
    index = torch.arange(n, dtype=torch.float64).flip(0) * (schedule.steps // n) + offset
    return _visit(schedule, index[: n - extra])


def trailing(schedule: Schedule, n: int) -> list[Level]:
    """Every (N/n)-th entry from the noisiest down (Lin et al. 2023, table 2)."""
    n = _count(schedule, n)
    index = schedule.steps - torch.arange(n, dtype=torch.float64) * (schedule.steps / n)
    return _visit(schedule, index.round() - 1)


def linspace(schedule: Schedule, n: int, extra: int = 0) -> list[Level]:
    """Evenly from the noisiest entry to the first, both included; `extra` as in `leading`."""
    n = _count(schedule, n, extra)
    index = torch.linspace(0, schedule.steps - 1, n, dtype=torch.float64).flip(0)
    return _visit(schedule, index[: n - extra])


def interpolated(schedule: Schedule, n: int) -> list[Level]:
    """`linspace` without rounding, σ/α linear between entries: k-diffusion's way, and Euler's."""
    n = _count(schedule, n)
    index = torch.linspace(0, schedule.steps - 1, n, dtype=torch.float64).flip(0)
    numbers = torch.arange(schedule.steps, dtype=torch.float64)
    entries = schedule.level((numbers + 1) / schedule.steps)
    ratio = interpolate(index, numbers, (-entries.log_snr / 2).exp())
    visited = schedule.level(schedule.time(-2 * ratio.log()))
    return [*split(visited._replace(t=(index + 1) / schedule.steps)), clean()]


def flow(schedule: Schedule, n: int) -> list[Level]:
    """Evenly in t from 0.999, labels cut to whole numbers: DPM-Solver++'s grid for flow models."""
    n = _count(schedule, n)
    t = torch.linspace(0, 1 - 1 / schedule.steps, n + 1, dtype=torch.float64)[1:].flip(0)
    visited = schedule.level(t)
    sigma = (schedule.label(t) + 1e-9).floor() / schedule.steps  # what the network is told
    told = schedule.time(2 * ((1 - sigma).log() - sigma.log()))
    return [*split(visited._replace(t=told)), clean()]


GRIDS: dict[str, Grid] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "interpolated": interpolated,
    "flow": flow,
}
