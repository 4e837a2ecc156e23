"""How a pipeline samples where a call does not say, and which numbers make sense."""

import math
from dataclasses import dataclass
from operator import index
from typing import Any, Protocol

from ldm.core.errors import UserError
from ldm.core.interval import interval_of
from ldm.diffusion.guidance import EVERYWHERE

DEFAULTS_FILE = "ldm.json"  # stock diffusers neither reads nor misses it
EMA_LENGTH = "ema_length"  # in it: of which average the weights are, where not of training's own
MOST_STEPS = 10_000  # where a schedule sets no limit of its own


class Defaults(Protocol):
    """What a call takes where it is not told; a SampleConfig is one."""

    @property
    def num_inference_steps(self) -> int: ...
    @property
    def guidance_scale(self) -> float: ...
    @property
    def guidance_interval(self) -> tuple[float, float]: ...


@dataclass(frozen=True)
class StockDefaults:
    """What StableDiffusionPipeline's call takes where it is not told."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    guidance_interval: tuple[float, float] = EVERYWHERE

    def __post_init__(self) -> None:
        whole("num_inference_steps", self.num_inference_steps, 1, MOST_STEPS)
        Guidance(self.guidance_scale, self.guidance_interval)


@dataclass(frozen=True)
class Guidance:
    """How predictions are combined: classifier-free, and by perturbed attention.

    Raises UserError for what is no finite number, or cannot be.
    """

    scale: float
    interval: tuple[float, float] = EVERYWHERE  # of σ/α
    rescale: float = 0.0
    pag_scale: float = 0.0

    def __post_init__(self) -> None:
        number("guidance_scale", self.scale)
        number("guidance_rescale", self.rescale, 0, 1)
        number("pag_scale", self.pag_scale, 0)
        refuse_interval(self.interval)


def refuse_interval(interval: tuple[float, float]) -> None:
    """Raise UserError for what is no interval of σ/α."""
    try:
        interval_of(interval)
    except (ValueError, TypeError) as error:
        raise UserError(f"guidance_interval: {error}") from None


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a finite float; raises UserError, by its name, where it is none in [low, high]."""
    try:
        found = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        found = math.nan
    if not (math.isfinite(found) and low <= found <= high):
        raise UserError(f"{name}={_short(value)} is not a number{_bounds(low, high)}")
    return found


def numbers(name: str, values: Any) -> list[float]:
    """Finite floats; raises UserError, by their name, for what is no list of them."""
    try:
        return [number(name, value) for value in values]
    except TypeError:
        raise UserError(f"{name}={_short(values)} is not a list of numbers") from None


def whole(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> int:
    """`value` as an int, numpy's too; raises UserError where it is none in [low, high]."""
    try:
        found = index(value)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{name}={_short(value)} is not a whole number") from None
    if not low <= found <= high:
        raise UserError(f"{name}={found} is not a whole number{_bounds(low, high)}")
    return found


def _bounds(low: float, high: float) -> str:
    if high == math.inf:
        return "" if low == -math.inf else f" of at least {low}"
    return f" from {low} to {high}"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


STOCK_DEFAULTS = StockDefaults()
