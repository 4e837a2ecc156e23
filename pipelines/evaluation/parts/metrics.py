"""Samples against the training images: Fréchet distance, KID, precision, recall and their kin."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ldm.core.files import written
from ldm.data.order import subset
from ldm.data.pixels import pictures
from ldm.evaluation.measurements import FEWEST, Measurement, measure, table
from pipelines.evaluation.parts.part import Cost, Part, apart, named
from pipelines.sheets.grid import captioned_grid, tiled

if TYPE_CHECKING:
    from pipelines.evaluation.subject.job import Job

SHOWN = 24  # samples in the picture


def paired(
    samples: list[Measurement], held_out: list[Measurement]
) -> list[tuple[Measurement, Measurement | None]]:
    """Each figure of the samples with that of held-out images."""
    real = {m.name: m for m in held_out}
    return [(m, real.get(m.name)) for m in samples]


def columns(samples: list[Measurement], held_out: list[Measurement]) -> str:
    """A plain-text table of both."""
    both = {"samples": samples, "held-out images": held_out}
    return table({title: rows for title, rows in both.items() if rows})


@dataclass(frozen=True)
class Metrics(Part):
    """Samples against the training images, and held-out images against them too."""

    reference: int  # training images
    samples: list[Measurement]
    held_out: list[Measurement]
    note: str | None = None  # why held-out images have no figures

    @classmethod
    def cost(cls, job: "Job") -> Cost:
        n, subject = job.amounts.samples, job.subject
        reals = sum(min(len(s), job.amounts.reference) for s in subject.sources.values())
        return Cost(n * subject.evaluations(subject.setting), n, reals)

    @classmethod
    def run(cls, job: "Job") -> "Metrics":
        prompts, images = job.images()
        features, reference = job.features(images), job.reference()
        job.found["features"] = features
        label, seed = job.extractor.label, job.subject.seed
        if job.writes:
            shown = subset(len(images), SHOWN, seed)
            tiles = [
                captioned_grid([(prompts[i] or "(none)", [image])])
                for i, image in zip(shown, pictures(images[shown]), strict=True)
            ]
            with written(job.folder / "samples.png") as file:
                tiled(tiles, columns=8).save(file)
        held_out = job.reference("validation")
        few = len(held_out)
        return cls(
            len(reference),
            measure(features, reference, label, seed),
            measure(held_out, reference, label, seed) if few >= FEWEST else [],
            None if few >= FEWEST else f"held out: {few}, and a distribution takes {FEWEST} images",
        )

    def figures(self) -> list[tuple[Measurement, Measurement | None]]:
        return paired(self.samples, self.held_out)

    def text(self) -> str:
        return columns(self.samples, self.held_out) + (f"\n\n{self.note}" if self.note else "")

    def _both(self, name: str) -> tuple[Measurement, Measurement] | None:
        made, real = named(name, self.samples), named(name, self.held_out)
        return (made, real) if made and real else None

    def sentences(self) -> Iterator[str]:
        if pair := self._both("kid"):
            made, real = pair
            told = (
                f"KID, whose expectation does not depend on N, is {made.value:.3g} for samples "
                f"and {real.value:.3g} for held-out images: samples can still be told from real "
                "ones."
            )
            alike = (
                f"By KID ({made.value:.3g}) samples cannot be told from held-out images "
                f"({real.value:.3g}): to see a difference, evaluate with more samples."
            )
            yield alike if apart(made, real) < 2 else told
        if (pair := self._both("precision")) and apart(*pair) <= -2:
            yield (
                f"Of the samples {pair[0].value:.0%} look like training images, of held-out images "
                f"{pair[1].value:.0%}: fidelity is lost. More training, a larger network or more "
                "guidance help."
            )
        if (pair := self._both("recall")) and apart(*pair) <= -2:
            yield (
                f"Samples reach {pair[0].value:.0%} of the training images, held-out images "
                f"{pair[1].value:.0%}: variety is lost. Less guidance, or longer training, brings "
                "it back."
            )
