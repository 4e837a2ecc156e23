"""`ldm evaluate`: everything that can be said about a checkpoint, in one reproducible command."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn
from tqdm.auto import tqdm

from ldm.core.errors import UserError
from ldm.core.files import write_json
from ldm.core.fingerprint import weight_hash
from ldm.core.share import MICRO_BATCH, repeatable
from ldm.core.text import say
from ldm.evaluation.measurements import FEWEST
from pipelines.evaluation.costs import predict
from pipelines.evaluation.parts.table import PARTS, USUAL
from pipelines.evaluation.results import About, Results
from pipelines.evaluation.subject.amounts import DEFAULT, Amounts
from pipelines.evaluation.subject.evaluated import open_evaluated
from pipelines.evaluation.subject.features import choose_features
from pipelines.evaluation.subject.job import Job


def evaluate(
    model: str,
    amounts: Amounts = DEFAULT,
    features: str | None = None,
    train: bool = False,
    parts: Sequence[str] = tuple(USUAL),
    data: str | None = None,
    caption: str | None = None,
    clip: str | None = None,
    seed: int = 0,
    out: str | None = None,
) -> Path:
    """Evaluate a run, a pipeline folder or a Hub name; returns the folder of the results.

    `features` names the extractor, `train` trains one on the data first, `data` and its `caption`
    column replace the run's own, `clip` names an open_clip model. Writes results.json, results.txt,
    pictures, and timing.json with what was predicted; what an earlier call with the same amounts
    found of other parts stays. The results are the same whatever the number of processes. Raises
    UserError where something is not there.
    """
    for part in parts:
        if part not in PARTS:
            raise UserError(f"unknown part {part!r}: there are {', '.join(PARTS)}")
    if min(amounts.samples, amounts.sweep_samples) < FEWEST:
        raise UserError(f"a distribution takes at least {FEWEST} samples to compare")
    subject = open_evaluated(model, data, out, seed, caption)
    job = Job(subject, choose_features(subject, features, train), amounts, clip)
    predicted = predict(job, parts)
    if subject.share.main:
        say(preflight(job, predicted))
    taken = _run(job, parts, model)
    if subject.share.main:
        times = {"predicted": predicted, "taken": taken}
        write_json(subject.folder / "timing.json", times)
        say((subject.folder / "results.txt").read_text())
        ratio = sum(taken.values()) / max(1e-9, sum(predicted.values()))
        say(f"{subject.folder}: {_minutes(sum(taken.values()))}, {ratio:.2f} of what was said")
    return subject.folder


def _run(job: Job, parts: Sequence[str], model: str) -> dict[str, float]:
    """Run the parts, writing the results after each; returns the seconds that they took."""
    results, taken = _earlier(job, model), {}
    hidden = not job.subject.share.main
    total = sum(PARTS[name].cost(job).evaluations for name in parts) // job.subject.share.world
    with repeatable(), tqdm(total=total, unit="eval", disable=hidden) as bar:
        job.subject.tick = bar.update
        for name in parts:
            bar.set_description(name)
            began = time.perf_counter()
            results.put(name, PARTS[name].run(job))
            taken[name] = time.perf_counter() - began
            if not hidden:
                results.write(job.folder)
    return taken


def _earlier(job: Job, model: str) -> Results:
    """What was found before of the very same thing, whatever it was called; else nothing yet."""
    about = _about(job, model)
    try:
        known = Results.read(job.folder)
    except UserError as error:
        say(f"what was found before is left out: {error}")
        known = None
    if known is None or replace(known.about, model=model) != about:
        return Results(about)
    return replace(known, about=about)


def preflight(job: Job, predicted: dict[str, float]) -> str:
    """What is about to be done, and how long it will take."""
    subject = job.subject
    sizes = ", ".join(f"{len(source):,} {name}" for name, source in subject.sources.items())
    rows = {
        "images": f"{sizes}, {subject.resolution} px",
        "samples": f"{job.amounts.samples}, {subject.setting}",
        "features": job.extractor.label,
        "processes": str(subject.share.world),
        "time": f"{_minutes(sum(predicted.values()))}: "
        + ", ".join(f"{name} {_minutes(s)}" for name, s in predicted.items() if s >= 1),
    }
    return "\n".join(f"{name:<10} {text}" for name, text in rows.items())


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _about(job: Job, model: str) -> About:
    subject = job.subject
    return About(
        model=model,
        weights=weight_hash(nn.ModuleDict(subject.model.modules)),
        setting=subject.setting,
        seed=subject.seed,
        resolution=subject.resolution,
        features=job.extractor.label,
        data={name: source.fingerprint for name, source in subject.sources.items()},
        images={name: source.image_fingerprint for name, source in subject.sources.items()},
        micro_batch=MICRO_BATCH,
        amounts=job.amounts,
    )
