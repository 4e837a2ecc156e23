"""Loss by noise level: what the network has learnt at which level, and what it knows by heart."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ldm.diffusion.plane import error_gain
from ldm.evaluation.measurements import shown
from ldm.evaluation.noise_levels import Curve, LossByLevel, plot
from ldm.evaluation.records import Record
from pipelines.evaluation.parts.part import Beside, Cost, Part
from pipelines.sheets.page import Series, charts
from pipelines.sheets.pieces import curves

if TYPE_CHECKING:
    from pipelines.evaluation.subject.job import Job

LEVELS = 20  # of each curve


def with_error(value: float, error: float) -> str:
    """A figure and its standard error, where it has one: that of one image has none."""
    return shown(value, ".4f") + (f" ± {error:.4f}" if math.isfinite(error) else "")


@dataclass(frozen=True)
class Spaces(Record):
    """The same errors seen in three spaces."""

    output: Curve  # the network's own
    x0: Curve
    eps: Curve

    @classmethod
    def of(cls, losses: LossByLevel, job: "Job") -> "Spaces":
        spec = job.subject.pipe.spec
        level = spec.schedule.level(losses.times)
        x0 = losses.scaled(1 / error_gain(level, spec.prediction), "x0")
        return cls(losses.curve(), x0.curve(), x0.scaled(level.snr, "eps").curve())


@dataclass(frozen=True)
class Levels(Part):
    """Loss by noise level: held out and trained on, of the EMA and of the last weights."""

    title: ClassVar[str] = "Noise levels"
    held_out: Spaces
    train: Spaces
    held_out_without_ema: Spaces | None = None

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> "Levels":
        """Older versions wrote "held out" and "held out, without EMA"."""
        if not isinstance(row, Mapping):
            raise ValueError("levels are no mapping")
        return super().read({_key(name): spaces for name, spaces in row.items()})

    @classmethod
    def cost(cls, job: "Job") -> Cost:
        number = 2 if job.subject.run is None else 3
        return Cost(number * job.amounts.examples * LEVELS, 0, 2 * job.amounts.examples)

    @classmethod
    def run(cls, job: "Job") -> "Levels":
        subject, count = job.subject, job.amounts.examples
        losses = {
            "held out": subject.loss_by_level("validation", count, LEVELS),
            "train": subject.loss_by_level("train", count, LEVELS),
        }
        if last := subject.last_weights():
            with subject.weights(last):
                raw = subject.loss_by_level("validation", count, LEVELS)
                losses["held out, without EMA"] = raw
        if job.writes:
            plot(losses, job.folder / "loss_by_level.png")
        return cls(**{_key(name): Spaces.of(curve, job) for name, curve in losses.items()})

    @property
    def named(self) -> dict[str, Spaces]:
        """As they are called where they are shown."""
        found = {"held out": self.held_out, "train": self.train}
        raw = self.held_out_without_ema
        return found if raw is None else {**found, "held out, without EMA": raw}

    def text(self) -> str:
        lines = ["squared error of the network's output, mean over all noise levels"]
        for name, spaces in self.named.items():
            seen = spaces.output
            lines.append(f"{name:24} {with_error(seen.total, seen.total_standard_error)}")
        return "\n".join(lines)

    def sentences(self) -> Iterator[str]:
        yield from _overfitting(self.held_out.output, self.train.output)
        if self.held_out_without_ema is not None:
            yield from _average(self.held_out.output, self.held_out_without_ema.output)

    def section(self, beside: Beside) -> str:
        final, noise = (
            [series(name, getattr(spaces, space)) for name, spaces in self.named.items()]
            for space in ("output", "eps")
        )
        said = "At the end, with 95 % bands: squared error by t, 0 clean and 1 noise"
        panels = [
            curves(final, "t", said, log_y=True),
            curves(noise, "t", "The same errors as those of the predicted noise", log_y=True),
        ]
        return charts([panel for panel in panels if panel])


def _key(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "_")


def series(name: str, curve: Curve) -> Series:
    """A curve with its band, as it is drawn."""
    low, high = (list(ends) for ends in zip(*curve.interval, strict=True))
    return Series(name, curve.t, curve.mean, low, high)


def _overfitting(held: Curve, train: Curve) -> Iterator[str]:
    gap = held.total - train.total
    error = (held.total_standard_error**2 + train.total_standard_error**2) ** 0.5
    if not math.isfinite(gap + error):
        return  # one image, or a network that has diverged
    if gap < 2 * error:
        yield (
            f"The held-out loss, {held.total:.4f}, is within its error of the training loss, "
            f"{train.total:.4f}: no overfitting yet, so a longer run or a larger network pays."
        )
        return
    pairs = zip(held.mean, train.mean, strict=True)
    ratios = [h / t if h and t and math.isfinite(h / t) else 1.0 for h, t in pairs]
    worst = max(range(len(ratios)), key=ratios.__getitem__)
    yield (
        f"The held-out loss is {gap / train.total:.0%} above the training loss, most at "
        f"t = {held.t[worst]:.2f} ({ratios[worst] - 1:.0%}): the network knows its training "
        "images. More images or crops, dropout, or an earlier stop help; a longer run does not."
    )


def _average(averaged: Curve, raw: Curve) -> Iterator[str]:
    gain = 1 - averaged.total / raw.total if raw.total else math.nan
    if not math.isfinite(gain) or abs(gain) < 0.002:
        return
    verb = "lowers" if gain > 0 else "raises"
    advice = "" if gain > 0 else ": it is too long for this run"
    yield f"Averaging the weights {verb} the held-out loss by {abs(gain):.1%}{advice}."
