"""Which noise levels a sampler visits: n of a schedule, noisiest first, and the clean end."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ldm.diffusion.plane import Level, clean, noised
from ldm.diffusion.schedules import ZERO_SNR_FLOOR, Flow, Schedule, interpolate

Grid = Callable[..., list[Level]]  # (schedule, n, **options) -> n + 1 levels


def split(level: Level) -> list[Level]:
    """A Level of (n,) tensors as n levels of scalars."""
    return [Level(*scalars) for scalars in zip(*level, strict=True)]


def _count(schedule: Schedule, n: int, extra: int = 0) -> int:
    if not 1 <= n <= schedule.steps - extra:
        most = schedule.steps - extra
        raise ValueError(f"{n} sampling steps; this schedule has between 1 and {most}")
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
    stride = (schedule.steps - schedule.steps / n) - schedule.steps  # as NumPy's arange has it:
    index = schedule.steps + torch.arange(n, dtype=torch.float64) * stride  # its last bit decides
    return _visit(schedule, index.round() - 1)  # which way diffusers rounds halves


def linspace(schedule: Schedule, n: int, extra: int = 0) -> list[Level]:
    """Evenly from the noisiest entry to the first, both included; `extra` as in `leading`."""
    n = _count(schedule, n, extra)
    stride = (schedule.steps - 1) / max(1, n - 1)  # and as its linspace has it
    index = torch.arange(n, dtype=torch.float64).flip(0) * stride
    return _visit(schedule, index[: n - extra])


def interpolated(schedule: Schedule, n: int) -> list[Level]:
    """`linspace` without rounding, σ/α linear between entries: Euler's in diffusers.

    Pure noise, where σ/α has no end, counts as ᾱ = 2⁻²⁴ as it does there.
    """
    n = _count(schedule, n)
    index = torch.linspace(0, schedule.steps - 1, n, dtype=torch.float64).flip(0)
    numbers = torch.arange(schedule.steps, dtype=torch.float64)
    entries = schedule.level((numbers + 1) / schedule.steps)
    ratios = entries.sigma / entries.alpha
    ratios = torch.where(ratios.isfinite(), ratios, ZERO_SNR_FLOOR**-0.5)
    ratio = interpolate(index, numbers, ratios)
    visited = schedule.level(schedule.time(-2 * ratio.log()))
    return [*split(visited._replace(t=(index + 1) / schedule.steps)), clean()]


def karras(
    schedule: Schedule,
    n: int,
    rho: float = 7.0,
    between: str | None = None,
    told: str = "exact",
    offset: int = 0,
    first: int | None = None,
) -> list[Level]:
    """σ/α with σ^(1/ρ) even (Karras et al. 2022, eq. 5), between the schedule's or a grid's ends.

    On `edm` it is EDM's own grid; ρ = inf is even in log σ. `told` says what becomes of a label
    between entries: "exact", "round" or "floor", as diffusers' classes differ in it; `first` is
    what their rounding makes of the noisiest. `offset` is that of `between` where it is leading.
    """
    _count(schedule, n)
    top, bottom = _ends(schedule, n, between, offset)
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    if rho == math.inf:
        log_ratio = math.log(top) + ramp * (math.log(bottom) - math.log(top))
    else:
        root, least = top ** (1 / rho), bottom ** (1 / rho)
        log_ratio = rho * (root + ramp * (least - root)).log()
    return _between_entries(schedule, log_ratio, told, first)


def _ends(
    schedule: Schedule, n: int, between: str | None = None, offset: int = 0
) -> tuple[float, float]:
    """σ/α of the noisiest and the cleanest level of a grid, or of the whole schedule.

    As in NumPy's arange, whose last bit makes n + 1 of 61 or 103 trailing ones, down to the first.
    """
    if between is None:  # one position further in, where an end is clean or pure noise
        t = schedule.snap(torch.tensor([0.0, 1.0], dtype=torch.float64))
        inner = t.clamp(1 / schedule.steps, 1 - 1 / schedule.steps)
        finite = schedule.level(t).log_snr.isfinite()
        ends = split(schedule.level(torch.where(finite, t, inner).flip(0)))
    else:
        shifted = {"offset": offset} if offset else {}
        ends = GRIDS[between](schedule, n, **shifted)[:-1]
        if between == "trailing" and math.ceil(schedule.steps / (schedule.steps / n)) > n:
            ends[-1] = schedule.level(torch.tensor(1 / schedule.steps, dtype=torch.float64))
    return float(ends[0].sigma / ends[0].alpha), float(ends[-1].sigma / ends[-1].alpha)


def _between_entries(
    schedule: Schedule, log_ratio: Tensor, told: str, first: int | None = None
) -> list[Level]:
    """The levels of these log(σ/α), whose labels may be told as those of an entry."""
    visited = schedule.level(schedule.time(-2 * log_ratio))
    if told != "exact":
        index = visited.t * schedule.steps - 1
        index = index.round() if told == "round" else (index + 1e-6).floor()
        if first is not None:
            index[0] = first
        visited = visited._replace(t=(index + 1) / schedule.steps)
    return [*split(visited), clean()]


def beta(
    schedule: Schedule,
    n: int,
    between: str | None = None,
    told: str = "exact",
    offset: int = 0,
    first: int | None = None,
) -> list[Level]:
    """σ/α at the quantiles of Beta(0.6, 0.6) between a grid's ends (Lee et al. 2024)."""
    _count(schedule, n)
    top, bottom = _ends(schedule, n, between, offset)
    share = beta_quantile(torch.linspace(1, 0, n, dtype=torch.float64))
    return _between_entries(schedule, (bottom + share * (top - bottom)).log(), told, first)


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


def log_linear(
    schedule: Schedule, n: int, between: str = "interpolated", offset: int = 0
) -> list[Level]:
    """σ/α even in its logarithm, the last step ending on the first entry, under the labels of
    another grid: what diffusers' Euler calls log_linear.
    """
    shifted = {"offset": offset} if offset else {}
    told = torch.stack([level.t for level in GRIDS[between](schedule, n, **shifted)[:-1]])
    top, bottom = (math.log(end) for end in _ends(schedule, n))
    log_ratio = torch.linspace(top, bottom, n + 1, dtype=torch.float64)
    visited = schedule.level(schedule.time(-2 * log_ratio[:-1]))
    return [*split(visited._replace(t=told)), clean()]


def flow(schedule: Schedule, n: int, top: float = 1.0) -> list[Level]:
    """Evenly in t from 0.999, labels cut to whole numbers: DPM-Solver++'s grid for flow models.

    With `top` < 1, evenly from 1 with 0.001 left out, σ at most `top`: UniPC's.
    """
    if not isinstance(schedule, Flow):
        raise ValueError("grid flow needs schedule flow")
    n, end = _count(schedule, n), 1 / schedule.steps
    t = torch.linspace(0, 1 - end, n + 1, dtype=torch.float64)[1:].flip(0) + (end if top < 1 else 0)
    sigma = schedule.level(t).sigma.clamp(max=top)
    # what the network is told: their last bits, too, decide which whole number it is cut to
    even = 1 + torch.arange(n + 1, dtype=torch.float64) * ((end - 1) / n)
    even[-1] = end
    even = even[:-1] if top < 1 else (1 - even).flip(0)[:-1]
    even = (schedule.shift * even / (1 + (schedule.shift - 1) * even)).clamp(max=top)
    cut = (even * schedule.steps).floor() / schedule.steps
    told = schedule.time(2 * ((1 - cut).log() - cut.log()))
    return [*split(Level(told, 1 - sigma, sigma)), clean()]


def flow_match(schedule: Schedule, n: int) -> list[Level]:
    """Evenly in t from 1 to the σ of the last of 1000: SD3's, which shifts that end twice."""
    end = float(schedule.level(torch.tensor(1 / schedule.steps, dtype=torch.float64)).sigma)
    return [*split(schedule.level(torch.linspace(1, end, n, dtype=torch.float64))), clean()]


def lcm(schedule: Schedule, n: int, original: int = 50) -> list[Level]:
    """n of the `original` trailing levels that a consistency model was distilled on (LCM)."""
    if n > original:
        raise ValueError(f"{n} sampling steps; this model was distilled on {original}")
    place = torch.linspace(0, original, n + 1, dtype=torch.float64)[:-1].floor()
    return _visit(schedule, (original - place) * (schedule.steps // original) - 1)


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
