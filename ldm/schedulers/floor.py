"""diffusers' floor: what stands in for ᾱ = 0 in those of its classes that divide by α."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from ldm.diffusion import schedules
from ldm.diffusion.schedules import Discrete, Schedule

ZERO_SNR_FLOOR = 2.0**-24


def floored(table: Discrete, floor: float = ZERO_SNR_FLOOR) -> Discrete:
    """The same table with `floor` for ᾱ = 0."""
    bar = table.alphas_cumprod
    return Discrete(torch.where(bar > 0, bar, floor))


def _may_floor(make: Callable[..., Discrete]) -> Callable[..., Discrete]:
    """The same with an option `floor`, which the schedules of configs and exports may have."""

    @wraps(make)
    def schedule(*args: Any, floor: float = 0.0, **options: Any) -> Discrete:
        return floored(make(*args, **options), floor)

    return schedule


_TABLES: tuple[Callable[..., Discrete], ...] = (
    schedules.linear,
    schedules.scaled_linear,
    schedules.cosine,
    schedules.sigmoid,
    schedules.table,
)
SCHEDULES: dict[str, Callable[..., Schedule]] = schedules.SCHEDULES | {
    make.__name__: _may_floor(make) for make in _TABLES
}
