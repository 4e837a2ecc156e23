"""The length of the weights' average, against held-out loss and FD."""

from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ldm.core.errors import UserError
from ldm.evaluation.measurements import Measurement
from ldm.evaluation.records import Record
from ldm.training.post_hoc_ema import Snapshot, averaged, coefficients, snapshots
from pipelines.evaluation.parts.levels import LEVELS, with_error
from pipelines.evaluation.parts.part import Beside, Cost, Part, listed
from pipelines.evaluation.parts.sweep import figures_of
from pipelines.runs.record import SNAPSHOTS
from pipelines.sheets.page import Series, charts
from pipelines.sheets.pieces import curves

if TYPE_CHECKING:
    from pipelines.evaluation.subject.job import Job

EMA_SETTING: dict[str, Any] = {"sampler": "dpmpp_2m", "steps": 20}


class Averages(NamedTuple):
    """The averages that a run has kept, and which of the lengths to measure they can make."""

    kept: list[Snapshot]
    lengths: list[float]
    left_out: dict[str, str]  # the reason of each other one


def averages(job: "Job") -> Averages | str:
    """Of the run; else why there are none. The files are read once."""
    if "averages" not in job.found:
        job.found["averages"] = _averages(job)
    return job.found["averages"]


def _averages(job: "Job") -> Averages | str:
    run = job.subject.run
    if run is None or not (run.folder / SNAPSHOTS).is_dir():
        return "this run kept no EMA snapshots"
    try:
        kept = snapshots(run.folder / SNAPSHOTS)
    except UserError as error:
        return str(error)
    lengths, left_out = [], {}
    for length in job.amounts.lengths:
        try:
            coefficients(kept, length, kept[-1].step)
            lengths.append(length)
        except UserError as error:
            left_out[f"{length:g}"] = str(error)
    return Averages(kept, lengths, left_out)


@dataclass(frozen=True)
class Length(Record):
    """One length and what came of it."""

    length: float  # relative to the run
    loss: float
    loss_standard_error: float
    figures: tuple[Measurement, ...]


@dataclass(frozen=True)
class Ema(Part):
    """Averages of several lengths, against held-out loss and FD."""

    title: ClassVar[str] = "EMA"
    setting: str
    samples: int  # of each length
    lengths: list[Length]
    left_out: dict[str, str] = field(default_factory=dict)  # the reasons, by length

    @classmethod
    def cost(cls, job: "Job") -> Cost:
        found = averages(job)
        if isinstance(found, str):
            return Cost()
        count, n = len(found.lengths), job.amounts.sweep_samples
        setting = replace(job.subject.setting, **EMA_SETTING)
        each = n * job.subject.evaluations(setting) + job.amounts.examples * LEVELS
        return Cost(count * each, count * n)

    @classmethod
    def run(cls, job: "Job") -> "Ema | str":
        found, subject = averages(job), job.subject
        if isinstance(found, str):
            return found
        setting = replace(subject.setting, **EMA_SETTING)
        rows = []
        for length in found.lengths:
            with subject.weights(averaged(found.kept, length)):
                loss = subject.loss_by_level("validation", job.amounts.examples, LEVELS)
                figures = figures_of(job, setting)
            rows.append(Length(length, loss.total, loss.total_standard_error, figures))
        return cls(str(setting), job.amounts.sweep_samples, rows, found.left_out)

    def text(self) -> str:
        lines = [f"{'EMA length':10} {'held-out loss':>15}  figures, by {self.setting}"]
        for row in self.lengths:
            loss = with_error(row.loss, row.loss_standard_error)
            lines.append(f"{row.length:10g} {loss:>15}  {listed(row.figures)}")
        lines += [f"left out: {reason}" for reason in self.left_out.values()]
        return "\n".join(lines)

    def section(self, beside: Beside) -> str:
        x = [row.length for row in self.lengths]
        loss = Series("held-out loss", x, [row.loss for row in self.lengths], dots=True)
        fd = [m.value for row in self.lengths for m in row.figures if m.name == "fd"]
        panels = [
            curves([loss], "EMA length, relative to the run", "Held-out loss by EMA length"),
            curves([Series("FD", x, fd, dots=True)], "EMA length", f"FD, {self.setting}"),
        ]
        notes = "".join(f'<p class="note">{escape(why)}</p>' for why in self.left_out.values())
        return charts(panels) + notes
