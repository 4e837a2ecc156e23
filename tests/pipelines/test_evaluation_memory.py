"""An evaluation in the course of training leaves nothing in memory."""

import gc
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from small_evaluation import features_in, subject

from ldm.config import SampleConfig
from ldm.core.inference import leaving_nothing
from ldm.evaluation.noise_levels import LossByLevel, plot
from pipelines.evaluation.preview import Preview
from pipelines.evaluation.quality import Quality


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """All that an evaluation in training does after its losses: figures, pictures and a plot."""
    folder = tmp_path_factory.mktemp("evaluation")
    who = subject(folder=folder)
    features = features_in(folder / "features")
    quality = Quality(who.model, who.pipe.defaults, who.sources, folder, 20, features)
    preview = Preview(who.model, SampleConfig(num_inference_steps=2), ["a red flower"], folder)
    curve = LossByLevel(torch.linspace(0.1, 0.9, 10), torch.rand(10, 20).double())

    def evaluate():
        quality()
        preview(1)
        plot({"held out": curve, "train": curve}, folder / "loss.png")

    return evaluate


def left_by(evaluate, context):
    """Objects and tensors that an evaluation leaves, without a collection by chance."""
    gc.collect()
    gc.disable()
    try:
        before, tensors = len(gc.get_objects()), tensors_alive()
        with context():
            evaluate()
        return len(gc.get_objects()) - before, tensors_alive() - tensors
    finally:
        gc.enable()
        gc.collect()


def tensors_alive():
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def test_an_evaluation_leaves_no_objects_and_no_tensors(evaluation):
    evaluation()  # what is made once
    objects, tensors = left_by(evaluation, leaving_nothing)
    assert objects < 200 and tensors == 0  # matplotlib keeps the sizes of a few texts


@pytest.mark.slow
def test_the_memory_of_the_process_does_not_grow_with_evaluations(evaluation):
    evaluation()
    objects, _ = left_by(evaluation, nullcontext)
    assert objects > 1000  # circles, of which Python would take its time

    def resident():  # MiB
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    sizes = []
    for _ in range(40):
        with leaving_nothing():
            evaluation()
        sizes.append(resident())
    assert sum(sizes[30:]) / 10 - sum(sizes[10:20]) / 10 < 20 * 0.1
