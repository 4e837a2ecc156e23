"""How a pipeline samples where a call does not say."""

from dataclasses import dataclass
from typing import Protocol

from ldm.diffusion.guidance import EVERYWHERE, interval_of
from ldm.errors import UserError

DEFAULTS_FILE = "ldm.json"  # stock diffusers neither reads nor misses it
EMA_LENGTH = "ema_length"  # in it: of which average the weights are, where not of training's own


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


STOCK_DEFAULTS = StockDefaults()


@dataclass(frozen=True)
class Guidance:
    """How predictions are combined: classifier-free, and by perturbed attention."""

    scale: float
    interval: tuple[float, float] = EVERYWHERE  # of σ/α
    rescale: float = 0.0
    pag_scale: float = 0.0

    def __post_init__(self) -> None:
        refuse_interval(self.interval)


def refuse_interval(interval: tuple[float, float]) -> None:
    """Raise UserError for what is no interval of σ/α."""
    try:
        interval_of(interval)
    except ValueError as error:
        raise UserError(f"guidance_interval: {error}") from None
