"""The rows of one table file: what each column holds, and the line where the row begins."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Rows(NamedTuple):
    """Rows of named columns, as they stand in a file."""

    values: list[dict[str, Any]]
    lines: Sequence[int]  # of each row, counted from 1; of a file without lines, its number
    notes: tuple[str, ...] = ()
    unit: str = "line"
    short: frozenset[int] = frozenset()  # lines with fewer cells than the header
