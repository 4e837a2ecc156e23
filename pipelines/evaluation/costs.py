"""What the parts of an evaluation cost, in units that are timed before anything begins."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from ldm.core.share import MICRO_BATCH
from ldm.data.example import Subset
from ldm.data.pixels import pixels_of
from ldm.evaluation.features.extractor import BATCH
from pipelines.evaluation.parts.others import EMA_SETTING, averages, swept
from pipelines.evaluation.subject.evaluated import LEVELS
from pipelines.evaluation.subject.job import Job


class Cost(NamedTuple):
    """In network evaluations of one image, images decoded and looked at, and real images read."""

    evaluations: int = 0
    samples: int = 0
    reals: int = 0


def _metrics(job: Job) -> Cost:
    n, subject = job.amounts.samples, job.subject
    reals = sum(min(len(s), job.amounts.reference) for s in subject.sources.values())
    return Cost(n * subject.evaluations(subject.setting), n, reals)


def _levels(job: Job) -> Cost:
    curves = 2 if job.subject.run is None else 3
    return Cost(curves * job.amounts.examples * LEVELS, 0, 2 * job.amounts.examples)


def _likelihood(job: Job) -> Cost:
    bound, flow = job.amounts.bound, job.amounts.flow
    # RK4, and a backward pass costs about two forward ones
    return Cost(bound[0] * bound[1] + flow[0] * flow[1] * 4 * 3)


def _memorisation(job: Job) -> Cost:
    return Cost(0, 0, 2 * min(len(job.subject.sources["train"]), job.amounts.reference))


def _sweep(job: Job) -> Cost:
    subject, n = job.subject, job.amounts.sweep_samples
    chosen, _ = swept(job)
    return Cost(n * sum(subject.evaluations(s) for s in chosen), n * len(chosen))


def _ema(job: Job) -> Cost:
    found = averages(job)
    if isinstance(found, str):
        return Cost()
    count, n = len(found.lengths), job.amounts.sweep_samples
    setting = replace(job.subject.setting, **EMA_SETTING)
    each = n * job.subject.evaluations(setting) + job.amounts.examples * LEVELS
    return Cost(count * each, count * n)


COSTS: dict[str, Callable[[Job], Cost]] = {
    "metrics": _metrics,
    "adherence": lambda job: Cost(),
    "clip": lambda job: Cost(),
    "levels": _levels,
    "likelihood": _likelihood,
    "memorisation": _memorisation,
    "sweep": _sweep,
    "ema": _ema,
}


def unit_seconds(job: Job) -> tuple[float, float, float]:
    """Seconds of one network evaluation, one sample's decoding and features, one real image."""
    subject, clock = job.subject, time.perf_counter
    own, prompts = subject.setting, subject.prompts(MICRO_BATCH)

    def sampling(steps: int) -> tuple[int, float]:
        setting = replace(own, steps=steps)
        began = clock()
        subject.sample(prompts, setting)
        return subject.evaluations(setting) * MICRO_BATCH, clock() - began

    tick, subject.tick = subject.tick, lambda evaluations: None
    sampling(1)  # the first call of anything is slower
    (few, short), (many, long) = sampling(2), sampling(6)
    subject.tick = tick
    evaluation = max(1e-6, (long - short) / (many - few))
    decoding = max(0.0, short - few * evaluation) / MICRO_BATCH

    blank = torch.zeros(BATCH, 3, subject.resolution, subject.resolution, dtype=torch.uint8)
    job.extractor(blank)
    began = clock()
    job.extractor(blank)
    feature = (clock() - began) / BATCH
    began = clock()
    train = subject.sources["train"]
    pixels_of(Subset(train, range(min(MICRO_BATCH, len(train)))), subject.resolution)
    reading = (clock() - began) / MICRO_BATCH
    return evaluation, decoding + feature, reading + feature


def predict(job: Job, parts: Sequence[str]) -> dict[str, float]:
    """Seconds that each part will take on all processes together."""
    units, world = unit_seconds(job), job.subject.share.world
    return {
        name: sum(unit * count for unit, count in zip(units, COSTS[name](job), strict=True)) / world
        for name in parts
    }
