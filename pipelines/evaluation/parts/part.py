"""What every part of an evaluation is: how it is found, and how it is told.

A part is one file, which a report reads as well; so what runs it is imported for its types alone.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from ldm.evaluation.measurements import Measurement
from ldm.evaluation.records import Record
from ldm.evaluation.sweep import Setting

if TYPE_CHECKING:
    from pipelines.evaluation.subject.job import Job


class Cost(NamedTuple):
    """In network evaluations of one image, images decoded and looked at, and real images read."""

    evaluations: int = 0
    samples: int = 0
    reals: int = 0


class Beside(NamedTuple):
    """What a section of a page needs beside the part itself."""

    folder: Path  # with the evaluation's pictures
    setting: Setting  # how the model samples unless told otherwise


@dataclass(frozen=True)
class Part(Record):
    """What one part of an evaluation found. Its fields are what results.json holds of it."""

    title: ClassVar[str] = ""  # of its section of a page
    optional: ClassVar[bool] = False  # left out unless it is asked for

    @classmethod
    def cost(cls, job: "Job") -> Cost:
        """What `run` will cost; nothing where others make all that it needs."""
        return Cost()

    @classmethod
    def run(cls, job: "Job") -> "Part | str":
        """Find it; a text says why there is nothing."""
        raise NotImplementedError

    def figures(self) -> Iterable[tuple[Measurement, Measurement | None]]:
        """Figures of samples for the table of a model's quality, each with that of real images."""
        return ()

    def text(self) -> str:
        """As plain text."""
        raise NotImplementedError

    def sentences(self) -> Iterable[str]:
        """What the figures say, and what to do about it."""
        return ()

    def section(self, beside: Beside) -> str:
        """As HTML, under `title`."""
        return ""


def named(name: str, rows: Iterable[Measurement]) -> Measurement | None:
    """The figure of that name, where it is there and defined."""
    return next((m for m in rows if m.name == name and m.defined), None)


def apart(a: Measurement, b: Measurement) -> float:
    """How many standard errors lie between two figures; 0 where those are not defined."""
    error = (a.standard_error**2 + b.standard_error**2) ** 0.5
    return 0.0 if math.isnan(error) else (a.value - b.value) / max(1e-12, error)


def listed(figures: Iterable[Measurement]) -> str:
    """Names and values in a line."""
    return "  ".join(f"{m.name} {m.shown('.4g')}" for m in figures)
