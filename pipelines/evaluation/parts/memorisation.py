"""Does the model draw, or recite? As a part of an evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, ClassVar

import torch

from ldm.core.files import written
from ldm.data.order import subset
from ldm.data.pixels import pictures, to_pixels
from ldm.evaluation.measurements import Measurement, mean_measurement
from ldm.evaluation.memorisation import Training
from pipelines.evaluation.parts.part import Beside, Cost, Part, apart
from pipelines.sheets.grid import captioned_grid, tiled
from pipelines.sheets.page import Series, charts
from pipelines.sheets.pieces import curves, picture, thinned

if TYPE_CHECKING:
    from pipelines.evaluation.subject.job import Job


@dataclass(frozen=True)
class Memorisation(Part):
    """Samples and held-out images against their nearest training images.

    Held-out images that are training images too say nothing of chance, and are only counted.
    """

    title: ClassVar[str] = "Memorisation"
    samples: Measurement  # the share that is closer than training images are to each other
    held_out: Measurement
    ratios: list[float]  # of the distance to the nearest one and that one's own
    held_out_ratios: list[float]
    closest: list[int]  # samples, most suspicious first
    neighbours: list[int]  # their nearest training images
    searched: int  # of the training images
    training_images: int
    repeated: int = 0  # training images that are there more than once
    distinct: int = 0
    leaked: int = 0  # held-out images that are training images too

    @classmethod
    def cost(cls, job: "Job") -> Cost:
        return Cost(0, 0, 2 * min(len(job.subject.sources["train"]), job.amounts.reference))

    @classmethod
    def run(cls, job: "Job") -> "Memorisation | str":
        _, images = job.images()
        features = job.found.get("features")
        features = job.features(images) if features is None else features
        run, training = job.subject.run, job.reference()
        mirrored = job.reference(mirrored=True) if run is None or run.config.data.flip else None
        others = job.reference("validation")
        known = Training(training, mirrored, others)
        if known.distinct < 2:
            return f"the training images searched ({len(training):,}) are all one image"
        samples = known.nearest(features)
        held_out = known.nearest(others[~known.leaked])
        closest = samples.closest(8)
        source = job.subject.sources["train"]
        chosen = subset(len(source), job.amounts.reference)
        neighbours = [chosen[i] for i in samples.neighbour[closest].tolist()]
        if job.writes:
            side = job.subject.resolution
            crops = {i: to_pixels(source.image(i), side) for i in sorted(set(neighbours))}
            real = pictures(torch.stack([crops[i] for i in neighbours]))
            made = pictures(images[closest])
            rows = [
                (f"{float(samples.ratio[i]):.2f}", [a, b])
                for i, a, b in zip(closest, made, real, strict=True)
            ]
            with written(job.folder / "nearest.png") as file:
                tiled([captioned_grid([row]) for row in rows], 4).save(file)
        label = job.extractor.label
        return cls(
            samples=mean_measurement("copied", samples.copied.double(), label),
            held_out=mean_measurement("copied", held_out.copied.double(), label),
            ratios=samples.ratio.tolist(),
            held_out_ratios=held_out.ratio.tolist(),
            closest=closest,
            neighbours=neighbours,
            searched=len(chosen),
            training_images=len(source),
            repeated=known.repeated,
            distinct=known.distinct,
            leaked=int(known.leaked.sum()),
        )

    @property
    def copies(self) -> str:
        """What the training set holds more than once, and what of the held-out images it holds."""
        said = []
        if self.repeated:
            said.append(
                f"{self.repeated:,} of the {self.searched:,} training images are there more than "
                f"once ({self.distinct:,} distinct)"
            )
        if self.leaked:
            said.append(
                f"{self.leaked:,} held-out images are training images too, and left out of this"
            )
        return "; ".join(said)

    def text(self) -> str:
        made, real = (f"{m.shown('.1%')} of {m.n}" for m in (self.samples, self.held_out))
        return (
            "closer to a training image than that is to its own nearest: "
            f"{made} samples, {real} held-out images\n"
            f"searched: {self.searched:,} of {self.training_images:,} training images"
            + (f"\n{self.copies}" if self.copies else "")
        )

    def sentences(self) -> Iterator[str]:
        said, made, real = [], self.samples, self.held_out
        if made.defined and real.defined:
            chance = apart(made, real) <= 2
            verdict = "no copying" if chance else "more than chance: look at the pairs below"
            said.append(
                f"{made.value:.0%} of the samples are closer to a training image than that is to "
                f"its own nearest neighbour; of held-out images, which are no copies, "
                f"{real.value:.0%}: {verdict}."
            )
        if self.copies:
            said.append(f"{self.copies[0].upper()}{self.copies[1:]}.")
        if said:
            yield " ".join(said)

    def section(self, beside: Beside) -> str:
        lines = [
            _cumulative("samples", self.ratios),
            _cumulative("held-out images", self.held_out_ratios),
        ]
        said = (
            "Share of images nearer than this to a training image; 1 is as near as that training "
            f"image is to its own nearest other one ({self.searched:,} of "
            f"{self.training_images:,} training images searched)"
        )
        shown = "The samples nearest to training images (left), those images (right), and the ratio"
        return (
            picture(beside.folder / "nearest.png", shown)
            + charts([curves(lines, "ratio", said)])
            + (f'<p class="note">{escape(self.copies)}</p>' if self.copies else "")
        )


def _cumulative(name: str, ratios: list[float]) -> Series:
    values = sorted(ratios)
    y = [(i + 1) / len(values) for i in range(len(values))]
    return Series(name, *thinned(values, y))
