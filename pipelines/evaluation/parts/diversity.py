"""Do samples of one prompt differ as photos of one caption do, or are they one picture again?

The figure is the mean Euclidean distance in the features of the evaluation between two images: two
samples of one prompt that differ in their seeds alone, two training images under one caption, and
any two training images. A prompt says something, so its samples are closer together than any two
photos; that they are closer than photos of one caption is what a collapsed model, or too much
guidance, looks like. Pairs of an image with itself do not count.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ldm.data.order import subset
from ldm.evaluation.measurements import (
    KEPT,
    Measurement,
    jackknife,
    mean_measurement,
    subsets,
    table,
    undefined,
)
from ldm.evaluation.neighbours import distances
from pipelines.evaluation.parts.part import Beside, Cost, Part, apart
from pipelines.sheets.pieces import grid, interval, whisker

if TYPE_CHECKING:
    from pipelines.evaluation.subject.job import Job

PROMPTS, EACH = 25, 8  # prompts, and samples of each
PHOTOS = 2000  # of which any two are compared


def within(groups: Sequence[Tensor], label: str = "", unit: str = "prompt") -> Measurement:
    """Mean distance of two images of one group, each group (n, D) with n > 1 counted once.

    The standard error is over draws of the groups: what a bootstrap over prompts tends to.
    """
    each = [float(distances(x, x).sum() / (len(x) * (len(x) - 1))) for x in groups]
    return mean_measurement("diversity", torch.tensor(each), label, unit)


def among(features: Tensor, label: str = "", seed: int = 0, resamples: int = 100) -> Measurement:
    """Mean distance of any two of the images (n, D)."""
    n = len(features)
    if n < 2:
        return undefined("diversity", n, label, "a distance takes two images")
    between = distances(features, features)
    every = torch.ones(1, n, dtype=torch.bool)
    w = torch.cat([every, subsets(n, KEPT, resamples, seed)]).double()
    count = w.sum(1)
    found = ((w @ between) * w).sum(1) / (count * (count - 1))
    return Measurement("diversity", float(found[0]), jackknife(found[1:], n), n, label)


def by_caption(captions: Sequence[str], features: Tensor) -> list[Tensor]:
    """The features (n, D) under each caption that two images or more have."""
    places: dict[str, list[int]] = {}
    for i, caption in enumerate(captions):
        places.setdefault(caption, []).append(i)
    return [features[chosen] for chosen in places.values() if len(chosen) > 1]


@dataclass(frozen=True)
class Diversity(Part):
    """How far samples of one prompt are apart, beside photos of one caption, and any photos."""

    title: ClassVar[str] = "Diversity"
    optional: ClassVar[bool] = True  # it makes samples that nothing else needs
    samples: Measurement  # over prompts
    photos: Measurement  # over captions; not defined where no two photos have the same
    any_photos: Measurement
    each: int  # samples of a prompt

    @classmethod
    def cost(cls, job: "Job") -> Cost:
        n, subject = len(_prompts(job)) * EACH, job.subject
        reals = min(len(subject.sources["train"]), job.amounts.reference)
        return Cost(n * subject.evaluations(subject.setting), n, reals)

    @classmethod
    def run(cls, job: "Job") -> "Diversity":
        subject, label = job.subject, job.extractor.label
        prompts = [prompt for prompt in _prompts(job) for _ in range(EACH)]
        made = job.features(subject.sample(prompts)).split(EACH)
        photos, captions = job.reference(), subject.captions("train")
        chosen = subset(len(captions), job.amounts.reference)
        alike = by_caption([captions[i] for i in chosen], photos)
        some = photos[subset(len(photos), PHOTOS, subject.seed)]
        return cls(
            within(made, label),
            within(alike, label, "caption of two photos"),
            among(some, label, subject.seed),
            EACH,
        )

    @property
    def rows(self) -> dict[str, Measurement]:
        """As they are called where they are shown."""
        return {
            "samples of one prompt": self.samples,
            "photos of one caption": self.photos,
            "any two photos": self.any_photos,
        }

    def text(self) -> str:
        columns = {name: [m] for name, m in self.rows.items()}
        return f"mean distance of two images, {self.each} samples of a prompt\n{table(columns)}"

    def sentences(self) -> Iterator[str]:
        made, real = self.samples, self.photos
        if not made.defined or not real.defined or not real.value:
            return
        share = f"{made.value / real.value:.0%}"
        said = f"Samples of one prompt are {share} as far apart as photos of one caption"
        less = apart(made, real) < -2
        yield f"{said}: variety is lost. Less guidance brings it back." if less else f"{said}."

    def section(self, beside: Beside) -> str:
        ends = [end for m in self.rows.values() for end in (m.value, m.interval[1])]
        span = (0.0, max(filter(math.isfinite, ends), default=1.0))
        cells = [
            [escape(name), interval(m), whisker(m, span), str(m.n)] for name, m in self.rows.items()
        ]
        said = f"{self.each} samples of a prompt; features: {self.samples.features}"
        return grid(("between", "distance", "", "N"), cells) + f'<p class="note">{escape(said)}</p>'


def _prompts(job: "Job") -> list[str]:
    """Different captions of held-out images."""
    captions = list(dict.fromkeys(job.subject.captions("validation")))
    return [captions[i] for i in subset(len(captions), PROMPTS, job.subject.seed)]
