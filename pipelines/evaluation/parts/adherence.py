"""How often images show what their prompts ask for."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, ClassVar

from PIL import Image
from torch import Tensor

from ldm.data.pixels import pictures, pixels_of
from ldm.evaluation.adherence import Row, by_wanted, table, total
from ldm.evaluation.measurements import Measurement
from pipelines.evaluation.parts.part import Beside, Part
from pipelines.sheets.pieces import grid, span_of

if TYPE_CHECKING:
    from pipelines.evaluation.subject.job import Job


def adherence_share(job: "Job", prompts: list[str], images: Tensor) -> Measurement | None:
    """The share of all images that show the colour asked for; None where no prompt asks."""
    rows = by_wanted(prompts, pictures(images), job.measures[0])
    if not rows:
        return None
    whole = total(rows)
    error = (whole.share * (1 - whole.share) / whole.n) ** 0.5
    return Measurement("adherence", whole.share, error, whole.n)


def _rows(job: "Job", prompts: list[str], images: list[Image.Image]) -> list[Row]:
    return [row for name in job.measures for row in by_wanted(prompts, images, name)]


def first_measure(rows: list[Row]) -> Row | None:
    """All prompts of the first measure together; None where there are no images of it."""
    first = [row for row in rows if row.measure == rows[0].measure]
    return total(first) if sum(row.n for row in first) else None


@dataclass(frozen=True)
class Adherence(Part):
    """How often samples, and real images, show what their captions ask for."""

    title: ClassVar[str] = "Prompts"
    samples: list[Row]
    held_out: list[Row]

    @classmethod
    def run(cls, job: "Job") -> "Adherence | str":
        prompts, images = job.images()
        rows = _rows(job, prompts, pictures(images))
        if not rows:
            return "no caption asks for a colour or a number of petals"
        source, captions = job.subject.sources["validation"], job.subject.captions("validation")
        pixels, indices = pixels_of(source, job.subject.resolution, job.amounts.samples)
        return cls(rows, _rows(job, [captions[i] for i in indices], pictures(pixels)))

    def text(self) -> str:
        if not self.held_out:
            return table(self.samples)
        whole = total(self.held_out)
        real = f"held-out images that do: {whole.right} of {whole.n}, {whole.share:.1%}"
        return f"{table(self.samples)}\n{real}"

    def sentences(self) -> Iterator[str]:
        made, real = first_measure(self.samples), first_measure(self.held_out)
        if made and real:
            yield (
                f"{made.share:.0%} of the samples whose prompt names a colour have it; of real "
                f"images, by the same measure, {real.share:.0%}."
            )

    def section(self, beside: Beside) -> str:
        real = {row.prompt: row for row in self.held_out}
        rows = []
        for row in self.samples:
            seen = ", ".join(f"{value}: {n}" for value, n in list(row.seen.items())[:4])
            other = real.get(row.prompt)
            low, high = row.interval
            rows.append(
                [
                    escape(row.prompt),
                    f"{row.share:.0%} <small>of {row.n}</small>",
                    span_of(low, row.share, high, (0, 1)),
                    f"{other.share:.0%} <small>of {other.n}</small>" if other else "",
                    escape(seen),
                ]
            )
        head = ("asked for", "samples", "0 to 100 %", "real images", "samples show")
        return grid(head, rows) if rows else ""
