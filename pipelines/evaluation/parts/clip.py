"""How well images and their prompts agree, as CLIP sees it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ldm.core.errors import UserError
from ldm.data.pixels import pixels_of
from ldm.evaluation.features.clip_score import ClipScore
from ldm.evaluation.measurements import Measurement, mean_measurement
from pipelines.evaluation.parts.metrics import columns, paired
from pipelines.evaluation.parts.part import Part

if TYPE_CHECKING:
    from pipelines.evaluation.subject.job import Job


@dataclass(frozen=True)
class Clip(Part):
    """CLIP score of samples and of held-out images under their own captions."""

    samples: list[Measurement]
    held_out: list[Measurement]

    @classmethod
    def run(cls, job: "Job") -> "Clip | str":
        try:
            score = ClipScore(job.clip or "", job.subject.device)
        except UserError as error:
            return str(error)
        prompts, images = job.images()
        captions = job.subject.captions("validation")
        pixels, indices = pixels_of(job.subject.sources["validation"], job.subject.resolution)
        real = score(pixels, [captions[i] for i in indices])
        return cls(
            [mean_measurement("clip_score", score(images, prompts), score.label)],
            [mean_measurement("clip_score", real, score.label)],
        )

    def figures(self) -> list[tuple[Measurement, Measurement | None]]:
        return paired(self.samples, self.held_out)

    def text(self) -> str:
        return columns(self.samples, self.held_out)
