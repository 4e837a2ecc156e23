"""Does the model draw, or recite? As a part of an evaluation."""

from typing import Any

import torch

from ldm.core.files import written
from ldm.data.order import subset
from ldm.data.pixels import to_pixels
from ldm.evaluation.measurements import mean_measurement
from ldm.evaluation.memorisation import Training
from pipelines.evaluation.subject.job import Job, pictures
from pipelines.sheets.grid import captioned_grid, tiled


def memorisation(job: Job) -> dict[str, Any] | str:
    """Samples and held-out images against their nearest training images.

    Held-out images that are training images too say nothing of chance, and are only counted.
    """
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
    return {
        "samples": mean_measurement("copied", samples.copied.double(), label).summary(),
        "held_out": mean_measurement("copied", held_out.copied.double(), label).summary(),
        "ratios": samples.ratio.tolist(),
        "held_out_ratios": held_out.ratio.tolist(),
        "closest": closest,
        "neighbours": neighbours,
        "searched": len(chosen),
        "training_images": len(source),
        "repeated": known.repeated,
        "distinct": known.distinct,
        "leaked": int(known.leaked.sum()),
    }
