"""How long the parts of an evaluation will take, by units that are timed before any begins."""

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from ldm.core.share import MICRO_BATCH
from ldm.data.example import Subset
from ldm.data.pixels import pixels_of
from ldm.evaluation.features.extractor import BATCH
from pipelines.evaluation.parts.table import PARTS
from pipelines.evaluation.subject.job import Job


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
    costs = {name: zip(units, PARTS[name].cost(job), strict=True) for name in parts}
    return {name: sum(unit * n for unit, n in cost) / world for name, cost in costs.items()}
