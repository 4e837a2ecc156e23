"""What sampling costs and what it brings: one checkpoint, many ways to sample, the same noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ldm.core.interval import interval_from_json, interval_to_json
from ldm.diffusion.guidance import EVERYWHERE
from ldm.evaluation.measurements import Measurement
from ldm.evaluation.records import Record


@dataclass(frozen=True)
class Setting(Record):
    """A way to sample."""

    sampler: str
    steps: int
    guidance: float
    interval: tuple[float, float] = EVERYWHERE  # of σ/α, in which guidance acts

    def __str__(self) -> str:
        text = f"{self.sampler} {self.steps} steps, guidance {self.guidance:g}"
        if self.interval == EVERYWHERE:
            return text
        low, high = self.interval
        return f"{text} in σ/α {low:g} to {high:g}"

    def summary(self) -> dict[str, Any]:
        """As JSON, with the interval where there is one."""
        said = dict(vars(self))
        if said.pop("interval") != EVERYWHERE:
            said["interval"] = interval_to_json(self.interval)
        return said

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> "Setting":
        """The inverse."""
        interval = interval_from_json(row["interval"]) if "interval" in row else EVERYWHERE
        return cls(row["sampler"], row["steps"], row["guidance"], interval)


@dataclass(frozen=True)
class Point(Record):
    """A setting and what came of it."""

    setting: Setting
    evaluations: int  # of the network for one image; guidance counts as two
    figures: tuple[Measurement, ...] = field(default=())

    def figure(self, name: str) -> float | None:
        """The value of one figure, if it was measured and is defined."""
        return next((m.value for m in self.figures if m.name == name and m.defined), None)

    def summary(self) -> dict[str, Any]:
        """As JSON, the setting's own names among the others."""
        about = {**self.setting.summary(), "evaluations": self.evaluations}
        return {**about, "figures": [m.summary() for m in self.figures]}

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> "Point":
        """The inverse."""
        figures = tuple(Measurement.read(one) for one in row["figures"])
        return cls(Setting.read(row), row["evaluations"], figures)


QUICK = (
    *(("ddim", n, None) for n in (10, 20, 50)),
    *(("dpmpp_2m", n, None) for n in (10, 20)),
    ("heun", 10, None),
    # fresh noise corrects what an imperfect network errs by; it needs more steps
    *(("dpmpp_2m_sde", n, None) for n in (25, 50)),
    *(("dpmpp_2m", 20, scale) for scale in (1.0, 2.0, 5.0, 8.0)),
)
FULL = (
    ("ddpm", 1000, None),
    ("ddpm", 250, None),
    ("ddim", 100, None),
    ("heun", 5, None),
    ("heun", 25, None),
    ("dpmpp_2m", 50, None),
    *QUICK,
    *(("dpmpp_2m", 20, scale) for scale in (1.5, 3.0, 4.0, 6.5)),
)
PRESETS = {"quick": QUICK, "full": FULL, "none": ()}


def settings(preset: str, own: Setting) -> list[Setting]:
    """The settings of a preset, at the model's own guidance where none is given; none twice."""
    rows = [
        replace(own, sampler=sampler, steps=n, guidance=own.guidance if scale is None else scale)
        for sampler, n, scale in PRESETS[preset]
    ]
    return list(dict.fromkeys(rows))


def best(points: Sequence[Point], name: str = "fd") -> Point | None:
    """The point with the lowest figure; None where no point has it."""
    known = [(value, i) for i, p in enumerate(points) if (value := p.figure(name)) is not None]
    return points[min(known)[1]] if known else None


def cheapest_as_good(
    points: Sequence[Point], name: str = "fd", within: float = 0.01
) -> Point | None:
    """The point of fewest network evaluations whose figure is within 1 % of the best one's."""
    if (top := best(points, name)) is None:
        return None
    limit = max((top.figure(name) or 0.0) * (1 + within), top.figure(name) or 0.0)
    known = [(p.evaluations, value, i) for i, p in enumerate(points)
             if (value := p.figure(name)) is not None and value <= limit]  # fmt: skip
    return points[min(known)[2]]
