"""How a pipeline samples where a call does not say."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Protocol

from ldm.diffusion.guidance import EVERYWHERE
from ldm.errors import UserError


class Defaults(Protocol):
    """What a call takes where it is not told; a SampleConfig is one."""

    @property
    def num_inference_steps(self) -> int: ...
    @property
    def guidance_scale(self) -> float: ...
    @property
    def guidance_interval(self) -> Sequence[float]: ...


@dataclass(frozen=True)
class StockDefaults:
    """What StableDiffusionPipeline's call takes where it is not told."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    guidance_interval: Sequence[float] = EVERYWHERE


STOCK_DEFAULTS = StockDefaults()


def interval_to_json(interval: Sequence[float]) -> list[float | None]:
    """Its ends, None for one that is infinite, which JSON has not."""
    return [end if isfinite(end) else None for end in interval]


def interval_from_json(ends: Sequence[float | None]) -> tuple[float, float]:
    low, high = ends
    return float(low or 0.0), inf if high is None else float(high)


@dataclass(frozen=True)
class Guidance:
    """How predictions are combined: classifier-free, and by perturbed attention."""

    scale: float
    interval: Sequence[float] = EVERYWHERE  # of σ/α
    rescale: float = 0.0
    pag_scale: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.interval
        if not low <= high:
            raise UserError(f"guidance_interval is {low:g} to {high:g}: give the lower end first")
