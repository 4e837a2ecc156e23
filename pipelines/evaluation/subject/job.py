"""One evaluation: what is evaluated, with which features, and the samples that its parts share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.core.share import in_pieces
from ldm.data.drawn import DrawnFlowers
from ldm.evaluation.features.extractor import BATCH, Extractor
from ldm.evaluation.features.references import reference_features
from pipelines.evaluation.subject.amounts import DEFAULT, Amounts
from pipelines.evaluation.subject.evaluated import Evaluated


@dataclass
class Job:
    """One evaluation: what, with which features, how much of it, and what is known so far."""

    subject: Evaluated
    extractor: Extractor
    amounts: Amounts = DEFAULT
    clip: str | None = None
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.subject.folder

    @property
    def writes(self) -> bool:
        return self.subject.share.main

    def images(self) -> tuple[list[str], Tensor]:
        """The prompts and their samples, made once."""
        if "images" not in self.found:
            prompts = self.subject.prompts(self.amounts.samples)
            self.found["images"] = prompts, self.subject.sample(prompts)
        return self.found["images"]

    def features(self, images: Tensor) -> Tensor:
        """Of images uint8 (N, 3, H, W)."""
        share = self.subject.share
        return in_pieces(lambda i: self.extractor(images[i]), len(images), share, BATCH)

    def reference(self, split: str = "train", mirrored: bool = False) -> Tensor:
        """Features of real images."""
        subject = self.subject
        return reference_features(
            self.extractor,
            subject.sources[split],
            subject.resolution,
            self.folder / "cache",
            subject.share,
            mirrored,
            self.amounts.reference,
        )

    @property
    def measures(self) -> tuple[str, ...]:
        """What is read off the images: exactly on drawn flowers, the bloom's colour on photos."""
        source = self.subject.sources["train"]
        while inner := getattr(source, "source", None):
            source = inner
        return ("colour", "count") if isinstance(source, DrawnFlowers) else ("bloom",)
