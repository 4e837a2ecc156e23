"""The comparison with diffusers times the same work, and says so where it is not."""

import json
from argparse import Namespace
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from benchmarks import against_diffusers
from benchmarks.diffusers_ways import stock_pipeline
from benchmarks.interleaved import Way, fell_short, figures
from benchmarks.same_work import SameWork
from ldm.config import load_config
from ldm.core.errors import UserError

TOY = against_diffusers.SIZES["toy"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    told = [*TOY.changes, *against_diffusers.SAME, f"output={tmp_path_factory.mktemp('runs')}"]
    config = load_config(TOY.config, told)
    found = SameWork(replace(config, data=replace(config.data, size=8)))
    yield found
    found.stop()


def test_losses_agree_and_those_of_other_weights_are_refused(work):
    ours, theirs = work.same_loss()
    assert ours == pytest.approx(theirs, rel=1e-5)
    with pytest.raises(UserError, match="two losses differ"):
        work.same_loss(other(work.model).network)


def test_images_agree_and_those_of_other_weights_are_refused(work):
    own, told = against_diffusers.own_pipeline(work), against_diffusers.call(work, 1, 2)
    work.same_images(own, stock_pipeline(work.model, 2), **told)
    with pytest.raises(UserError, match="two images differ"):
        work.same_images(own, stock_pipeline(other(work.model), 2), **told)


def other(model):
    network = deepcopy(model.network)
    with torch.no_grad():
        network.conv_out.weight.mul_(1.01)
    return model._replace(network=network)


@pytest.mark.slow
def test_a_table_and_its_figures_are_written(tmp_path):
    told = {"size": "toy", "settings": [], "minutes": 0, "steps": 2, "train_steps": 1}
    told |= {"batches": None, "clock": "wall", "out": tmp_path / "out"}
    short = against_diffusers.compare(Namespace(**told))
    written = json.loads((tmp_path / "out.json").read_text())
    training, sampling = written["contests"].values()
    assert [row["dtype"] for row in training] == ["bfloat16", "float32"] + 2 * ["bfloat16"] + 2 * [
        "float32"
    ]
    assert len(sampling) == 3 and written["fell_short"] == short
    assert all(row["median"] > 0 and row["tflops"] > 0 for row in training + sampling)
    assert "Fell short" in (tmp_path / "out.md").read_text()


def test_ratios_are_of_rounds_and_a_missed_goal_is_told():
    here, there = (
        Way(name, lambda: None, 2, 1e12, torch.float32, ours=name == "here", goal=goal)
        for name, goal in (("here", None), ("there", 2.0))
    )
    here.seconds, there.seconds = [1.0, 2.0, 4.0], [3.0, 2.0, 4.0]
    rows = figures([here, there], {torch.float32: 1e12})
    assert rows[1]["times_here"] == [1.0, 1.0, 2.0]  # median and quartiles of 3, 1 and 1
    assert rows[0]["images_per_second"] == 1 and rows[0]["of_peak"] == 0.5
    assert fell_short("work", rows) == ["work: there takes 1.00 times as long as here, not 2"]
