"""How likely held-out images are, in bits per dimension of what is diffused."""

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, ClassVar

import torch

from ldm.core.inference import evaluating
from ldm.data.order import subset
from ldm.diffusion.denoise import Denoiser
from ldm.diffusion.plane import Level, clean
from ldm.evaluation.bits import BitsByTerm, bound_by_level, flow_bits
from ldm.evaluation.measurements import Measurement, mean_measurement, table
from pipelines.evaluation.parts.part import Beside, Cost, Part
from pipelines.sheets.page import Series, charts
from pipelines.sheets.pieces import curves, grid, interval, name_of

if TYPE_CHECKING:
    from pipelines.evaluation.subject.job import Job


def _levels(job: "Job") -> list[Level]:
    schedule, count = job.subject.model.process.schedule, job.amounts.bound[1]
    times = torch.arange(count, 0, -1, dtype=torch.float64) / count
    return [*(schedule.level(t) for t in times), clean()]


@dataclass(frozen=True)
class Likelihood(Part):
    """The bound by term and level, and the probability flow's density on a few images."""

    title: ClassVar[str] = "Likelihood"
    bound: BitsByTerm
    flow: Measurement

    @classmethod
    def cost(cls, job: "Job") -> Cost:
        bound, flow = job.amounts.bound, job.amounts.flow
        # RK4, and a backward pass costs about two forward ones
        return Cost(bound[0] * bound[1] + flow[0] * flow[1] * 4 * 3)

    @classmethod
    def run(cls, job: "Job") -> "Likelihood":
        subject = job.subject
        schedule = subject.model.process.schedule
        x0, captions = subject.examples("validation", job.amounts.bound[0])
        some = subset(len(x0), job.amounts.flow[0], subject.seed)

        def bound(piece: list[int]) -> Denoiser:
            return subject.denoiser([captions[i] for i in piece])

        where = (subject.seed, subject.share, subject.device)
        with evaluating(subject.model.network):
            found = bound_by_level(bound, x0, _levels(job), *where)
            flow = flow_bits(
                lambda piece: bound([some[i] for i in piece]),
                schedule,
                x0[some],
                *where,
                job.amounts.flow[1],
            )
        return cls(found.bound(), mean_measurement("bits_per_dim", flow))

    def text(self) -> str:
        columns = {"bound": self.bound.terms, "probability flow": [self.flow]}
        return "bits per dimension of what is diffused, held out\n" + table(columns)

    def section(self, beside: Beside) -> str:
        rows = [[escape(name_of(m.name)), interval(m), str(m.n)] for m in self.bound.terms]
        rows.append(["by the probability flow", interval(self.flow), str(self.flow.n)])
        steps = Series("bits of a step", self.bound.t, self.bound.steps)
        said = "Where the bits go: each step of the bound, by the noise it starts from"
        chart = curves([steps], "t", said, log_y=True)
        return grid(("held out", "bits per dimension", "N"), rows) + charts([chart])
