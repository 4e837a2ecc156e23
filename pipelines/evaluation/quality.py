"""Sample quality in the course of training: the metrics of `ldm evaluate`, small and often."""

from functools import cached_property
from pathlib import Path

from ldm.config import Config
from ldm.core.share import ALONE, Share, repeatable
from ldm.data.example import Source
from ldm.evaluation.measurements import measure
from ldm.ports.model import Model
from ldm.training.processes import this_share
from pipelines.calls.defaults import Defaults
from pipelines.evaluation.parts.adherence import adherence_share
from pipelines.evaluation.subject.amounts import Amounts
from pipelines.evaluation.subject.evaluated import Evaluated
from pipelines.evaluation.subject.features import choose_features
from pipelines.evaluation.subject.job import Job
from pipelines.sampling import NoNumbers
from pipelines.text_to_image import TextToImagePipeline

MOST = 5000  # training images of the reference: what bounds the memory
FIGURES = ("fd", "kid", "precision", "recall")


class Quality:
    """FD, KID, precision, recall and adherence of `samples` images of the pipeline as it is.

    Call it under the EMA's weights. Samples are split over processes, time and memory are bounded
    by `samples` and MOST, and nothing that training uses is touched: neither weights, modes nor
    torch's generator. `features` is as `ldm evaluate` takes it; None trains some at the first call.
    """

    def __init__(
        self,
        model: Model,
        defaults: Defaults,
        sources: dict[str, Source],
        folder: Path,
        samples: int,
        features: str | None = None,
        seed: int = 0,
        share: Share = ALONE,
    ) -> None:
        pipeline = TextToImagePipeline(model, defaults)
        side = pipeline.latent_shape(None, None)[1] * pipeline.factor
        self.subject = Evaluated(pipeline, sources, side, folder, None, seed, share)
        self.samples, self.features = samples, features

    @classmethod
    def of(
        cls,
        config: Config,
        model: Model,
        sources: dict[str, Source],
        folder: Path,
    ) -> "Quality":
        """As a run's config asks for it, split over the run's processes."""
        sample, seed = config.sample, config.seed
        asked = sample.quality_samples, sample.quality_features
        return cls(model, sample, sources, folder, *asked, seed, this_share())

    @cached_property
    def _job(self) -> Job:
        extractor = choose_features(self.subject, self.features, train=self.features is None)
        return Job(self.subject, extractor, Amounts(self.samples, reference=MOST))

    def __call__(self) -> dict[str, float]:
        """The figures, named "quality/fd" and so on; none of a network that gives no numbers."""
        with repeatable():
            prompts = self.subject.prompts(self.samples)
            try:
                images = self.subject.sample(prompts)
            except NoNumbers:
                return {}
            found = measure(self._job.features(images), self._job.reference(), resamples=2)
        figures = {f"quality/{m.name}": m.value for m in found if m.name in FIGURES and m.defined}
        share = adherence_share(self._job, prompts, images)
        if share is not None:
            figures["quality/adherence"] = share.value
        return figures
