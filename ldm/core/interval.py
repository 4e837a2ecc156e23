"""An interval of σ/α, as it is given and as it is written."""

import math
from collections.abc import Sequence


def interval_to_json(interval: Sequence[float]) -> list[float | None]:
    """The ends of an interval of σ/α; None for no upper end, as JSON has no infinity."""
    low, high = interval
    return [low, None if high == math.inf else high]


def interval_from_json(ends: Sequence[float | None]) -> tuple[float, float]:
    """The inverse of interval_to_json; raises TypeError or ValueError for what it never wrote."""
    low, high = ends
    return interval_of((float(low), math.inf if high is None else float(high)))  # type: ignore[arg-type]


def interval_of(ends: Sequence[float]) -> tuple[float, float]:
    """Two ends in order; raises ValueError for anything else."""
    low, high = ends if len(ends) == 2 else (math.nan, math.nan)
    if not low <= high or low == math.inf:
        raise ValueError(f"the interval {list(ends)} is not two values of σ/α, the lower first")
    return low, high
