"""What sampling costs and what it brings: samplers, steps and guidance on the same noise."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, ClassVar

from ldm.evaluation.measurements import Measurement, measure
from ldm.evaluation.sweep import Point, Setting, best, cheapest_as_good, settings
from pipelines.evaluation.parts.adherence import adherence_share
from pipelines.evaluation.parts.part import Beside, Cost, Part, listed
from pipelines.sheets.page import Series, charts
from pipelines.sheets.pieces import curves, grid, interval, name_of

if TYPE_CHECKING:
    from pipelines.evaluation.subject.job import Job


def figures_of(job: "Job", setting: Setting) -> tuple[Measurement, ...]:
    """FD, KID, precision, recall and adherence of the sweep's prompts and seeds at one setting."""
    prompts = job.subject.prompts(job.amounts.sweep_samples)
    images = job.subject.sample(prompts, setting)
    found = measure(job.features(images), job.reference(), resamples=40)
    kept = [m for m in found if m.name in ("fd", "kid", "precision", "recall")]
    share = adherence_share(job, prompts, images)
    return (*kept, share) if share else tuple(kept)


def swept(job: "Job") -> tuple[list[Setting], list[Setting]]:
    """The sweep's settings: those that the model's schedule has enough steps for, and the rest."""
    every = settings(job.amounts.sweep, job.subject.setting)
    possible = [s for s in every if job.subject.reaches(s)]
    return possible, [s for s in every if s not in possible]


@dataclass(frozen=True)
class Sweep(Part):
    """Samplers, steps and guidance scales against FD and adherence, the same noise throughout."""

    title: ClassVar[str] = "Sampling"
    samples: int  # of each setting
    points: list[Point]
    best: str | None
    cheapest_within_1_percent: str | None
    left_out: list[str] = field(default_factory=list)  # for want of steps in the schedule

    @classmethod
    def cost(cls, job: "Job") -> Cost:
        subject, n = job.subject, job.amounts.sweep_samples
        chosen, _ = swept(job)
        return Cost(n * sum(subject.evaluations(s) for s in chosen), n * len(chosen))

    @classmethod
    def run(cls, job: "Job") -> "Sweep | str":
        chosen, left_out = swept(job)
        if not chosen:
            return "not asked for"
        points = [Point(s, job.subject.evaluations(s), figures_of(job, s)) for s in chosen]
        top, cheapest = best(points), cheapest_as_good(points)
        return cls(
            job.amounts.sweep_samples,
            points,
            None if top is None else str(top.setting),
            None if cheapest is None else str(cheapest.setting),
            [str(s) for s in left_out],
        )

    def text(self) -> str:
        lines = [f"{'sampler':10} {'steps':>5} {'guidance':>8} {'evals':>6}  figures"]
        for point in self.points:
            by = point.setting
            lines.append(
                f"{by.sampler:10} {by.steps:5} {by.guidance:8g} "
                f"{point.evaluations:6}  {listed(point.figures)}"
            )
        if self.best:
            cheapest = self.cheapest_within_1_percent
            lines.append(f"best: {self.best}; as good and cheapest: {cheapest}")
        if self.left_out:
            said = ", ".join(self.left_out)
            lines.append(f"left out, for want of steps in the schedule: {said}")
        return "\n".join(lines)

    def sentences(self) -> Iterator[str]:
        top, cheapest = self.best, self.cheapest_within_1_percent
        if top and top == cheapest:
            yield f"The best way to sample is {top}, and no cheaper one comes within 1 % of its FD."
        elif top:
            yield f"The best way to sample is {top}; {cheapest} costs least within 1 % of its FD."

    def section(self, beside: Beside) -> str:
        own = beside.setting.guidance
        by_cost = [p for p in self.points if p.setting.guidance == own]
        one = [p for p in self.points if (p.setting.sampler, p.setting.steps) == ("dpmpp_2m", 20)]
        said = "the same prompts and noise throughout"
        both = [
            s._replace(name=n) for n in ("precision", "recall") for s in _curves(one, n, cost=False)
        ]
        panels = [
            curves(_curves(by_cost, "fd"), "network evaluations an image",
                   f"Fréchet distance, guidance {own:g}, {said}", log_x=True),
            curves(_curves(by_cost, "adherence"), "network evaluations an image",
                   "Prompt adherence", log_x=True),
            curves(_curves(one, "fd", cost=False), "guidance scale",
                   "Fréchet distance by guidance"),
            curves(_curves(one, "adherence", cost=False), "guidance scale",
                   "Adherence by guidance"),
            curves(both, "guidance scale", "Precision and recall by guidance"),
        ]  # fmt: skip
        names = list(dict.fromkeys(m.name for p in self.points for m in p.figures))
        rows = []
        for p in self.points:
            values = {m.name: interval(m) for m in p.figures}
            by = p.setting
            cells = [escape(by.sampler), str(by.steps), f"{by.guidance:g}", str(p.evaluations)]
            rows.append(cells + [values.get(name, "") for name in names])
        head = ("sampler", "steps", "guidance", "evaluations", *map(name_of, names))
        table = f"<details><summary>All settings, {self.samples} samples each</summary>"
        return charts([p for p in panels if p]) + table + grid(head, rows) + "</details>"


def _curves(points: list[Point], figure: str, cost: bool = True) -> list[Series]:
    """One figure by cost, or by guidance: a curve for each sampler."""
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    across = [(p.evaluations if cost else p.setting.guidance, p) for p in points]
    for x, point in sorted(across, key=lambda pair: pair[0]):
        for m in point.figures:
            if m.name == figure:
                lines.setdefault(point.setting.sampler, []).append((x, m.value, *m.interval))
    series = []
    for sampler, rows in lines.items():
        x_values, values, low, high = (list(column) for column in zip(*rows, strict=True))
        series.append(Series(sampler, x_values, values, low, high, dots=True))
    return series
