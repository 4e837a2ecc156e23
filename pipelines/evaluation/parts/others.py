"""The parts of an evaluation: each a section of its results."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ldm.core.errors import UserError
from ldm.core.files import written
from ldm.core.inference import evaluating
from ldm.data.order import subset
from ldm.data.pixels import pixels_of
from ldm.diffusion.plane import Level, clean, error_gain
from ldm.evaluation.adherence import Row, by_wanted, table, total
from ldm.evaluation.bits import bound_by_level, flow_bits
from ldm.evaluation.features.clip_score import ClipScore
from ldm.evaluation.measurements import FEWEST, Measurement, mean_measurement, measure
from ldm.evaluation.noise_levels import LossByLevel, plot
from ldm.evaluation.sweep import Point, Setting, best, cheapest_as_good, settings
from ldm.training.post_hoc_ema import Snapshot, averaged, coefficients, snapshots
from pipelines.averaged import SNAPSHOTS
from pipelines.evaluation.parts.memorisation import memorisation
from pipelines.evaluation.subject.job import Job, pictures
from pipelines.sheets.grid import captioned_grid, tiled

SHOWN = 24


def metrics(job: Job) -> dict[str, Any]:
    """Samples against the training images, and held-out images against them too."""
    prompts, images = job.images()
    features, reference = job.features(images), job.reference()
    job.found["features"] = features
    label = job.extractor.label
    if job.writes:
        shown = subset(len(images), SHOWN, job.subject.seed)
        tiles = [
            captioned_grid([(prompts[i] or "(none)", [image])])
            for i, image in zip(shown, pictures(images[shown]), strict=True)
        ]
        with written(job.folder / "samples.png") as file:
            tiled(tiles, columns=8).save(file)
    seed = job.subject.seed
    held_out = job.reference("validation")
    few = len(held_out)
    real = measure(held_out, reference, label, seed) if few >= FEWEST else []
    return {
        **({} if real else {"note": f"held out: {few}, and a distribution takes {FEWEST} images"}),
        "reference": len(reference),
        "samples": [m.summary() for m in measure(features, reference, label, seed)],
        "held_out": [m.summary() for m in real],
    }


def _rows(job: Job, prompts: list[str], images: list[Image.Image]) -> list[Row]:
    return [row for name in job.measures for row in by_wanted(prompts, images, name)]


def adherence_share(job: Job, prompts: list[str], images: Tensor) -> Measurement | None:
    """The share of all images that show the colour asked for; None where no prompt asks."""
    rows = by_wanted(prompts, pictures(images), job.measures[0])
    if not rows:
        return None
    whole = total(rows)
    error = (whole.share * (1 - whole.share) / whole.n) ** 0.5
    return Measurement("adherence", whole.share, error, whole.n)


def adherence(job: Job) -> dict[str, Any] | str:
    """How often samples, and real images, show what their captions ask for."""
    prompts, images = job.images()
    rows = _rows(job, prompts, pictures(images))
    if not rows:
        return "no caption asks for a colour or a number of petals"
    source, captions = job.subject.sources["validation"], job.subject.captions("validation")
    pixels, indices = pixels_of(source, job.subject.resolution, job.amounts.samples)
    real = _rows(job, [captions[i] for i in indices], pictures(pixels))
    text = table(rows)
    if real:
        whole = total(real)
        text += f"\nheld-out images that do: {whole.right} of {whole.n}, {whole.share:.1%}"
    return {
        "text": text,
        "samples": [row.summary() for row in rows],
        "held_out": [row.summary() for row in real],
    }


def clip(job: Job) -> dict[str, Any] | str:
    """CLIP score of samples and of held-out images under their own captions."""
    try:
        score = ClipScore(job.clip or "", job.subject.device)
    except UserError as error:
        return str(error)
    prompts, images = job.images()
    captions = job.subject.captions("validation")
    pixels, indices = pixels_of(job.subject.sources["validation"], job.subject.resolution)
    real = score(pixels, [captions[i] for i in indices])
    return {
        "samples": [mean_measurement("clip_score", score(images, prompts), score.label).summary()],
        "held_out": [mean_measurement("clip_score", real, score.label).summary()],
    }


def _spaces(curve: LossByLevel, job: Job) -> dict[str, Any]:
    spec = job.subject.pipe.spec
    level = spec.schedule.level(curve.times)
    x0 = curve.scaled(1 / error_gain(level, spec.prediction), "x0")
    every = {"output": curve, "x0": x0, "eps": x0.scaled(level.snr, "eps")}
    return {space: seen.summary() for space, seen in every.items()}


def levels(job: Job) -> dict[str, Any]:
    """Loss by noise level: held out and trained on, of the EMA and of the last weights."""
    subject, count = job.subject, job.amounts.examples
    curves = {
        "held out": subject.loss_by_level("validation", count),
        "train": subject.loss_by_level("train", count),
    }
    if last := subject.last_weights():
        with subject.weights(last):
            curves["held out, without EMA"] = subject.loss_by_level("validation", count)
    if job.writes:
        plot(curves, job.folder / "loss_by_level.png")
    return {name: _spaces(curve, job) for name, curve in curves.items()}


def _bound_levels(job: Job) -> list[Level]:
    schedule, count = job.subject.pipe.spec.schedule, job.amounts.bound[1]
    times = torch.arange(count, 0, -1, dtype=torch.float64) / count
    return [*(schedule.level(t) for t in times), clean()]


def likelihood(job: Job) -> dict[str, Any]:
    """The bound by term and level, and the probability flow's density on a few images."""
    subject = job.subject
    schedule = subject.pipe.spec.schedule
    x0, captions = subject.examples("validation", job.amounts.bound[0])
    some = subset(len(x0), job.amounts.flow[0], subject.seed)

    def bound(piece: list[int]) -> Any:
        return subject.denoiser([captions[i] for i in piece])

    where = (subject.seed, subject.share, subject.device)
    with evaluating(subject.pipe.unet):
        found = bound_by_level(bound, x0, _bound_levels(job), *where)
        flow = flow_bits(
            lambda piece: bound([some[i] for i in piece]),
            schedule,
            x0[some],
            *where,
            job.amounts.flow[1],
        )
    return {"bound": found.summary(), "flow": mean_measurement("bits_per_dim", flow).summary()}


def _figures(job: Job, setting: Setting) -> tuple[Measurement, ...]:
    """FD, KID, precision, recall and adherence of the sweep's prompts and seeds at one setting."""
    prompts = job.subject.prompts(job.amounts.sweep_samples)
    images = job.subject.sample(prompts, setting)
    found = measure(job.features(images), job.reference(), resamples=40)
    kept = [m for m in found if m.name in ("fd", "kid", "precision", "recall")]
    share = adherence_share(job, prompts, images)
    return (*kept, share) if share else tuple(kept)


def swept(job: Job) -> tuple[list[Setting], list[Setting]]:
    """The sweep's settings: those that the model's schedule has enough steps for, and the rest."""
    every = settings(job.amounts.sweep, job.subject.setting)
    possible = [s for s in every if job.subject.reaches(s)]
    return possible, [s for s in every if s not in possible]


def sweep(job: Job) -> dict[str, Any] | str:
    """Samplers, steps and guidance scales against FD and adherence, the same noise throughout."""
    subject = job.subject
    chosen, left_out = swept(job)
    if not chosen:
        return "not asked for"
    points = [Point(s, subject.evaluations(s), _figures(job, s)) for s in chosen]
    top, cheapest = best(points), cheapest_as_good(points)
    return {
        "samples": job.amounts.sweep_samples,
        "points": [p.summary() for p in points],
        "left_out": [str(s) for s in left_out],
        "best": None if top is None else str(top.setting),
        "cheapest_within_1_percent": None if cheapest is None else str(cheapest.setting),
    }


EMA_SETTING: dict[str, Any] = {"sampler": "dpmpp_2m", "steps": 20}


class Averages(NamedTuple):
    """The averages that a run has kept, and which of the lengths to measure they can make."""

    kept: list[Snapshot]
    lengths: list[float]
    left_out: dict[str, str]  # the reason of each other one


def averages(job: Job) -> Averages | str:
    """Of the run; else why there are none. The files are read once."""
    if "averages" not in job.found:
        job.found["averages"] = _averages(job)
    return job.found["averages"]


def _averages(job: Job) -> Averages | str:
    run = job.subject.run
    if run is None or not (run.folder / SNAPSHOTS).is_dir():
        return "this run kept no EMA snapshots"
    try:
        kept = snapshots(run.folder / SNAPSHOTS)
    except UserError as error:
        return str(error)
    lengths, left_out = [], {}
    for length in job.amounts.lengths:
        try:
            coefficients(kept, length, kept[-1].step)
            lengths.append(length)
        except UserError as error:
            left_out[f"{length:g}"] = str(error)
    return Averages(kept, lengths, left_out)


def ema(job: Job) -> dict[str, Any] | str:
    """Averages of several lengths, against held-out loss and FD."""
    found, subject = averages(job), job.subject
    if isinstance(found, str):
        return found
    setting = replace(subject.setting, **EMA_SETTING)
    rows = []
    for length in found.lengths:
        with subject.weights(averaged(found.kept, length)):
            curve = subject.loss_by_level("validation", job.amounts.examples)
            figures = _figures(job, setting)
        rows.append(
            {
                "length": length,
                "loss": curve.total,
                "loss_standard_error": curve.total_standard_error,
                "figures": [m.summary() for m in figures],
            }
        )
    return {
        "setting": str(setting),
        "samples": job.amounts.sweep_samples,
        "lengths": rows,
        "left_out": found.left_out,
    }


Part = Callable[[Job], dict[str, Any] | str]  # a string says why there is nothing

PARTS: dict[str, Part] = {
    "metrics": metrics,
    "adherence": adherence,
    "clip": clip,
    "levels": levels,
    "likelihood": likelihood,
    "memorisation": memorisation,
    "sweep": sweep,
    "ema": ema,
}
