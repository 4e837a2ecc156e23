"""diffusers' grids: the mathematics' own as its classes lay them, and what it has beside.

Where its classes differ they do so by an offset, by a point that is spaced and not visited, by
what the network is told between two entries of a table, and by the last bit of NumPy's arange and
linspace, which decides which way a half is rounded.
"""

import math
from functools import partial

import torch
from torch import Tensor

from ldm.diffusion import grids
from ldm.diffusion.grids import Grid, entries, split, whole
from ldm.diffusion.plane import Level, clean
from ldm.diffusion.schedules import Flow, Schedule, interpolate, positions
from ldm.schedulers.floor import ZERO_SNR_FLOOR


def leading(schedule: Schedule, n: int, offset: int = 0, extra: int = 0) -> list[Level]:
    """Every (N/n)-th entry from `offset` up.

    With `extra` = 1 the n + 1 points are spaced and the cleanest is dropped, as DPM-Solver does.
    """
    n = whole(n, positions(schedule) - extra) + extra
    index = torch.arange(n, dtype=torch.float64).flip(0) * (positions(schedule) // n) + offset
    return entries(schedule, index[: n - extra])


def trailing(schedule: Schedule, n: int) -> list[Level]:
    """Every (N/n)-th entry from the noisiest down, as NumPy's arange has it."""
    last = positions(schedule)
    stride = (last - last / whole(n, last)) - last
    index = last + torch.arange(n, dtype=torch.float64) * stride
    return entries(schedule, index.round() - 1)


def linspace(schedule: Schedule, n: int, extra: int = 0) -> list[Level]:
    """Evenly from the noisiest entry to the first, as NumPy's has it; `extra` as in `leading`."""
    n = whole(n, positions(schedule) - extra) + extra
    stride = (positions(schedule) - 1) / max(1, n - 1)
    index = torch.arange(n, dtype=torch.float64).flip(0) * stride
    return entries(schedule, index[: n - extra])


def interpolated(schedule: Schedule, n: int) -> list[Level]:
    """`linspace` without rounding, σ/α linear between entries: Euler's in diffusers.

    Pure noise, where σ/α has no end, counts as ᾱ = 2⁻²⁴ as it does there.
    """
    last = positions(schedule)
    n = whole(n, last)
    index = torch.linspace(0, last - 1, n, dtype=torch.float64).flip(0)
    numbers = torch.arange(last, dtype=torch.float64)
    table = schedule.level((numbers + 1) / last)
    ratios = table.sigma / table.alpha
    ratios = torch.where(ratios.isfinite(), ratios, ZERO_SNR_FLOOR**-0.5)
    ratio = interpolate(index, numbers, ratios)
    visited = schedule.level(schedule.time(-2 * ratio.log()))
    return [*split(visited._replace(t=(index + 1) / last)), clean()]


def karras(
    schedule: Schedule,
    n: int,
    rho: float = 7.0,
    between: str | None = None,
    told: str = "exact",
    offset: int = 0,
    first: int | None = None,
) -> list[Level]:
    """σ/α with σ^(1/ρ) even, between the schedule's or a grid's ends.

    `told` says what becomes of a label between entries: "exact", "round" or "floor", as classes
    differ in it; `first` is what their rounding makes of the noisiest. `offset` is that of
    `between` where it is leading.
    """
    levels = grids.karras(schedule, n, rho, _ends(schedule, n, between, offset))
    return _told(schedule, levels, told, first)


def beta(
    schedule: Schedule,
    n: int,
    between: str | None = None,
    told: str = "exact",
    offset: int = 0,
    first: int | None = None,
) -> list[Level]:
    """σ/α at the quantiles of Beta(0.6, 0.6) (Lee et al. 2024); options as in `karras`."""
    whole(n, positions(schedule))
    top, bottom = _ends(schedule, n, between, offset) or grids.ends(schedule)
    share = beta_quantile(torch.linspace(1, 0, n, dtype=torch.float64))
    levels = grids.at_ratios(schedule, (bottom + share * (top - bottom)).log())
    return _told(schedule, levels, told, first)


def beta_quantile(p: Tensor, a: float = 0.6) -> Tensor:
    """The quantile function of Beta(a, a), by bisection on the series of its distribution."""
    lower = torch.minimum(p, 1 - p)
    k = torch.arange(80, dtype=torch.float64)
    steps = torch.cat([k.new_ones(1), ((k[:-1] + 1 - a) / (k[:-1] + 1)).cumprod(0)])

    def mass(x: Tensor) -> Tensor:
        return x**a * (steps / (a + k) * x[..., None] ** k).sum(-1)

    half = mass(torch.tensor(0.5, dtype=torch.float64))
    low, high = torch.zeros_like(p), torch.full_like(p, 0.5)
    for _ in range(60):
        middle = (low + high) / 2
        under = mass(middle) / (2 * half) < lower
        low, high = torch.where(under, middle, low), torch.where(under, high, middle)
    x = torch.where(lower == 0, lower, high)
    return torch.where(p <= 0.5, x, 1 - x)


def _ends(
    schedule: Schedule, n: int, between: str | None, offset: int
) -> tuple[float, float] | None:
    """σ/α of the noisiest and the cleanest level of a grid; None for the whole schedule.

    As in NumPy's arange, whose last bit makes n + 1 of 61 or 103 trailing ones, down to the first.
    """
    if between is None:
        return None
    visited = _laid(between, schedule, n, offset)
    if between == "trailing" and math.ceil(positions(schedule) / (positions(schedule) / n)) > n:
        visited[-1] = schedule.level(torch.tensor(1 / positions(schedule), dtype=torch.float64))
    top, bottom = visited[0], visited[-1]
    return float(top.sigma / top.alpha), float(bottom.sigma / bottom.alpha)


def _laid(name: str, schedule: Schedule, n: int, offset: int) -> list[Level]:
    """The noisy levels of another grid."""
    return GRIDS[name](schedule, n, **({"offset": offset} if offset else {}))[:-1]


def _told(schedule: Schedule, levels: list[Level], told: str, first: int | None) -> list[Level]:
    """The same levels, their labels told as those of an entry."""
    if told == "exact":
        return levels
    index = torch.stack([level.t for level in levels[:-1]]) * positions(schedule) - 1
    index = index.round() if told == "round" else (index + 1e-6).floor()
    if first is not None:
        index[0] = first
    return _labelled(levels, (index + 1) / positions(schedule))


def _labelled(levels: list[Level], times: Tensor) -> list[Level]:
    noisy = zip(levels[:-1], times, strict=True)
    return [*(level._replace(t=t) for level, t in noisy), levels[-1]]


def log_linear(
    schedule: Schedule, n: int, between: str = "interpolated", offset: int = 0
) -> list[Level]:
    """σ/α even in its logarithm, the last step ending on the first entry, under the labels of
    another grid: what diffusers' Euler calls log_linear.
    """
    told = torch.stack([level.t for level in _laid(between, schedule, n, offset)])
    top, bottom = (math.log(end) for end in grids.ends(schedule))
    log_ratio = torch.linspace(top, bottom, n + 1, dtype=torch.float64)
    visited = schedule.level(schedule.time(-2 * log_ratio[:-1]))
    return [*split(visited._replace(t=told)), clean()]


def flow(schedule: Schedule, n: int, top: float = 1.0) -> list[Level]:
    """Evenly in t from 0.999, labels cut to whole numbers: DPM-Solver++'s grid for flow models.

    With `top` < 1, evenly from 1 with 0.001 left out, σ at most `top`: UniPC's.
    """
    if not isinstance(schedule, Flow):
        raise ValueError("grid flow needs schedule flow")
    n, end = whole(n, positions(schedule)), 1 / positions(schedule)
    t = torch.linspace(0, 1 - end, n + 1, dtype=torch.float64)[1:].flip(0) + (end if top < 1 else 0)
    sigma = schedule.level(t).sigma.clamp(max=top)
    # what the network is told: their last bits, too, decide which whole number it is cut to
    even = 1 + torch.arange(n + 1, dtype=torch.float64) * ((end - 1) / n)
    even[-1] = end
    even = even[:-1] if top < 1 else (1 - even).flip(0)[:-1]
    even = (schedule.shift * even / (1 + (schedule.shift - 1) * even)).clamp(max=top)
    cut = (even * positions(schedule)).floor() / positions(schedule)
    told = schedule.time(2 * ((1 - cut).log() - cut.log()))
    return [*split(Level(told, 1 - sigma, sigma)), clean()]


def flow_match(schedule: Schedule, n: int) -> list[Level]:
    """Evenly in t from 1 to the σ of the last of 1000: SD3's, which shifts that end twice."""
    end = float(schedule.level(torch.tensor(1 / positions(schedule), dtype=torch.float64)).sigma)
    return [*split(schedule.level(torch.linspace(1, end, n, dtype=torch.float64))), clean()]


def lcm(schedule: Schedule, n: int, original: int = 50) -> list[Level]:
    """n of the `original` trailing levels that a consistency model was distilled on (LCM)."""
    if n > original:
        raise ValueError(f"{n} sampling steps; this model was distilled on {original}")
    place = torch.linspace(0, original, n + 1, dtype=torch.float64)[:-1].floor()
    return entries(schedule, (original - place) * (positions(schedule) // original) - 1)


GRIDS: dict[str, Grid] = grids.GRIDS | {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "interpolated": interpolated,
    "karras": karras,
    "edm": karras,
    "exponential": partial(karras, rho=math.inf),
    "beta": beta,
    "log_linear": log_linear,
    "flow": flow,
    "flow_match": flow_match,
    "lcm": lcm,
}
