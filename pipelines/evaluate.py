"""`ldm evaluate`: everything that can be said about a checkpoint, in one reproducible command."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ldm.errors import UserError
from ldm.evaluation.extractor import BATCH, Extractor, weight_hash
from ldm.evaluation.feature_training import train_features
from ldm.evaluation.features import load_extractor
from ldm.evaluation.sharing import MICRO_BATCH, repeatable
from ldm.evaluation.sweep import Setting
from pipelines.evaluated import Evaluated, open_evaluated
from pipelines.evaluation_job import Job
from pipelines.evaluation_parts import FEWEST, PARTS
from pipelines.evaluation_text import as_text

FEATURE_STEPS = 600


def evaluate(
    model: str,
    data: str | None = None,
    samples: int = 500,
    features: str | None = None,
    train: bool = False,
    clip: str | None = None,
    sweep: str = "quick",
    sweep_samples: int = 100,
    parts: Sequence[str] = tuple(PARTS),
    seed: int = 0,
    out: str | None = None,
    caption: str | None = None,
) -> Path:
    """Evaluate a run, a pipeline folder or a Hub name; returns the folder of the results.

    Writes results.json, results.txt, pictures, and timing.json with what was predicted. The results
    are the same whatever the number of processes. Raises UserError where something is not there.
    """
    for part in parts:
        if part not in PARTS:
            raise UserError(f"unknown part {part!r}: there are {', '.join(PARTS)}")
    if min(samples, sweep_samples) < FEWEST:
        raise UserError(f"a distribution takes at least {FEWEST} samples to compare")
    subject = open_evaluated(model, data, out, seed, caption)
    subject.folder.mkdir(parents=True, exist_ok=True)
    say = print if subject.share.rank == 0 else lambda *text: None
    extractor = choose_features(subject, features, train)
    job = Job(subject, extractor, samples, sweep, sweep_samples, clip)
    predicted = predict(job, parts)
    say(preflight(job, predicted))
    results, taken = _run(job, parts)
    results = {**_about(job, model), **results}
    if subject.share.rank == 0:
        text = as_text(results)
        (subject.folder / "results.txt").write_text(text + "\n")
        (subject.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        times = {"predicted": predicted, "taken": taken}
        (subject.folder / "timing.json").write_text(json.dumps(times, indent=1) + "\n")
        say(text)
        ratio = sum(taken.values()) / max(1e-9, sum(predicted.values()))
        say(f"\n{subject.folder}: {_minutes(sum(taken.values()))}, {ratio:.2f} of what was said")
    return subject.folder


def _run(job: Job, parts: Sequence[str]) -> tuple[dict[str, Any], dict[str, float]]:
    results: dict[str, Any] = {"missing": {}}
    taken: dict[str, float] = {}
    total = sum(PARTS[name].cost(job) for name in parts)
    hidden = job.subject.share.rank > 0
    with repeatable(), tqdm(total=total, unit="eval", disable=hidden) as bar:
        job.subject.tick = bar.update
        for name in parts:
            bar.set_description(name)
            began = time.perf_counter()
            found = PARTS[name].run(job)
            taken[name] = time.perf_counter() - began
            if isinstance(found, str):
                results["missing"][name] = found
            else:
                results[name] = found
    return results, taken


def choose_features(subject: Evaluated, spec: str | None, train: bool) -> Extractor:
    """The extractor that was named; else the run's own trained one; else Inception.

    With `train` the run's own is made first, unless it was made for these images already.
    """
    folder = subject.folder / "features"
    if spec is not None and not train:
        return load_extractor(spec, subject.device)
    if train and subject.share.rank == 0 and not _trained_on(folder, subject):
        name = Path(subject.run.config.data.source).name if subject.run else "this data"
        train_features(
            subject.sources["train"],
            folder,
            name,
            subject.resolution,
            FEATURE_STEPS,
            seed=subject.seed,
            device=subject.device,
        )
    subject.share.gather([None])  # the others wait until it is there
    if (folder / "features.json").is_file():
        return load_extractor(f"trained:{folder}", subject.device)
    return load_extractor("inception", subject.device)


def _trained_on(folder: Path, subject: Evaluated) -> bool:
    try:
        about = json.loads((folder / "features.json").read_text())
    except (OSError, ValueError):
        return False
    return (
        about.get("fingerprint") == subject.sources["train"].fingerprint
        and about.get("steps") == FEATURE_STEPS
    )


def predict(job: Job, parts: Sequence[str]) -> dict[str, float]:
    """Seconds that each part will take, from a few timed steps, decodings and features."""
    subject, clock = job.subject, time.perf_counter
    setting, prompts = subject.setting, subject.prompts(MICRO_BATCH)
    tick, subject.tick = subject.tick, lambda evaluations: None

    def timed(steps: int) -> float:
        began = clock()
        subject.sample(prompts, Setting(setting.sampler, steps, setting.guidance))
        return clock() - began

    timed(1)  # warm
    few, more = min(timed(2), timed(2)), min(timed(5), timed(5))
    pair = [subject.evaluations(Setting(setting.sampler, n, setting.guidance)) for n in (2, 5)]
    evaluation = max(1e-6, (more - few) / ((pair[1] - pair[0]) * MICRO_BATCH))
    decoding = max(0.0, few / MICRO_BATCH - evaluation * pair[0])
    pixels = torch.zeros(BATCH, 3, subject.resolution, subject.resolution, dtype=torch.uint8)
    job.extractor(pixels)
    began = clock()
    job.extractor(pixels)
    feature = (clock() - began) / BATCH
    subject.tick = tick

    world = subject.share.world
    seconds = {name: PARTS[name].cost(job) * evaluation / world for name in parts}
    settings = len(seconds) and {"sweep": job.sweep_samples * 12, "metrics": job.samples}
    real = sum(map(len, subject.sources.values()))
    for name, count in (settings or {}).items():
        if seconds.get(name):
            seconds[name] += count * (decoding + feature) / world
    if "metrics" in seconds:
        seconds["metrics"] += real * (feature + 0.003) / world  # 3 ms to decode and resize one
    if "memorisation" in seconds:
        seconds["memorisation"] += 2 * len(subject.sources["train"]) * (feature + 0.003) / world
    return seconds


def preflight(job: Job, predicted: dict[str, float]) -> str:
    """What is about to be done, and how long it will take."""
    subject = job.subject
    sizes = ", ".join(f"{len(source):,} {name}" for name, source in subject.sources.items())
    rows = {
        "images": f"{sizes}, {subject.resolution} px",
        "samples": f"{job.samples}, {subject.setting}",
        "features": job.extractor.label,
        "processes": str(subject.share.world),
        "time": f"{_minutes(sum(predicted.values()))}: "
        + ", ".join(f"{name} {_minutes(s)}" for name, s in predicted.items() if s >= 1),
    }
    return "\n".join(f"{name:<10} {text}" for name, text in rows.items())


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _about(job: Job, model: str) -> dict[str, Any]:
    subject = job.subject
    return {
        "model": model,
        "weights": weight_hash(subject.pipe.unet),
        "setting": vars(subject.setting),
        "samples": job.samples,
        "seed": subject.seed,
        "resolution": subject.resolution,
        "features": job.extractor.label,
        "data": {name: source.fingerprint for name, source in subject.sources.items()},
        "micro_batch": MICRO_BATCH,
    }
