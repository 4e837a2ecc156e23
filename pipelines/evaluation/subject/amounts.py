"""How much of everything an evaluation makes and looks at."""

from dataclasses import dataclass

from ldm.evaluation.features.references import MOST
from ldm.evaluation.records import Record


@dataclass(frozen=True)
class Amounts(Record):
    """How much of everything."""

    samples: int = 500
    sweep: str = "quick"  # a key of ldm.evaluation.sweep.PRESETS
    sweep_samples: int = 100  # for each setting
    examples: int = 128  # of each loss curve
    bound: tuple[int, int] = (32, 50)  # images and levels of the likelihood's bound
    flow: tuple[int, int] = (8, 15)  # images and steps of its exact value
    lengths: tuple[float, ...] = (0.02, 0.05, 0.10, 0.15, 0.20, 0.25)  # of the EMA sweep
    reference: int = MOST  # training images at most


DEFAULT = Amounts()
