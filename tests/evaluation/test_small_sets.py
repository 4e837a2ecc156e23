"""Sets that are small or odd: every figure is a number or, with the reason, not defined."""

import json
import math
import warnings

import numpy as np
import pytest
import torch

from ldm.core import keyed
from ldm.evaluation.adherence import Row, wilson
from ldm.evaluation.measurements import Measurement, mean_measurement, measure, table
from ldm.evaluation.memorisation import Training
from ldm.evaluation.noise_levels import LossByLevel, plot
from ldm.evaluation.records import jsonable
from ldm.evaluation.sweep import Point, Setting, best, cheapest_as_good

SETTING = Setting("ddim", 10, 2.0)
KINDS = {
    "drawn": lambda n: torch.randn(n, 6, generator=torch.Generator().manual_seed(n)),
    "equal": lambda n: torch.ones(n, 6),
    "nothing": lambda n: torch.zeros(n, 6),
    "wide": lambda n: torch.randn(n, 40, generator=torch.Generator().manual_seed(n))[:, :6] * 1e8,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 20])
def test_every_metric_of_a_set_of_any_size_is_a_number_or_says_why_not(kind, n):
    for m in (1, 2, 3, 6, 20):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = measure(KINDS[kind](n), KINDS["drawn"](m) + 1, "features", resamples=5)
        every_figure_is_told(found)
    if n == 20 and kind in ("drawn", "wide"):
        assert all(row.defined and math.isfinite(row.standard_error) for row in found)


def every_figure_is_told(found):
    assert {row.name for row in found} >= {"fd", "kid", "cmmd", "precision", "recall", "density",
                                           "coverage"}  # fmt: skip
    for row in found:
        said = json.loads(json.dumps(row.summary(), allow_nan=False))
        assert row.defined or "not defined: " in row.note
        again = Measurement.read(said)
        assert again.defined == row.defined and (not row.defined or again.value == row.value)
    text = table({"samples": found})
    assert "nan" not in text and "inf]" not in text


def test_a_collapsed_model_and_a_set_of_one_image_have_the_figures_that_they_can_have():
    found = {m.name: m for m in measure(torch.ones(30, 6), KINDS["drawn"](30), resamples=5)}
    assert found["fd"].value > 0 and found["recall"].value == 0.0
    one = {m.name: m for m in measure(KINDS["drawn"](30), torch.ones(1, 6), resamples=5)}
    assert not one["fd"].defined and one["cmmd"].defined and "neighbours" in one["recall"].note


def test_means_of_none_one_and_two_images():
    none, one, two = (mean_measurement("loss", torch.arange(1.0, n + 1)) for n in (0, 1, 2))
    assert not none.defined and none.summary()["value"] is None
    assert one.value == 1 and one.summary()["low"] is None and "no spread" in one.note
    assert two.value == 1.5 and two.standard_error == pytest.approx(0.5)
    share = Measurement.read(mean_measurement("copied", torch.ones(1)).summary())
    assert share.interval == pytest.approx(wilson(1, 1))
    assert wilson(0, 0) == (0.0, 1.0) and math.isnan(Row("a", "colour", "red", 0, 0, {}).share)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_loss_curve_of_few_examples_has_a_mean_and_may_have_no_error(n):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = jsonable(LossByLevel(torch.tensor([0.2, 0.8]), torch.rand(2, n).double()).curve())
    json.dumps(said, allow_nan=False)
    assert (said["total_standard_error"] is None) == (n == 1) and said["total"] is not None


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
def test_curves_of_a_network_that_has_diverged_are_drawn(value, tmp_path):
    losses = torch.full((2, 3), value, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot({"held out": LossByLevel(torch.tensor([0.2, 0.8]), losses)}, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_a_sweep_without_figures_has_no_best_point():
    points = [Point(SETTING, 10, (Measurement("fd", math.nan, math.nan, 1),)), Point(SETTING, 20)]
    assert best(points) is None and cheapest_as_good(points) is None
    known = Point(SETTING, 30, (Measurement("fd", 4.0, math.nan, 2),))
    assert best([*points, known]) is known and cheapest_as_good([*points, known]) is known


@pytest.mark.parametrize("m", [1, 2, 3])
def test_copies_are_looked_for_in_sets_of_any_size(m):
    images = KINDS["drawn"](m)
    known = Training(images, images.flip(1), KINDS["drawn"](5))
    assert known.distinct == m and known.nearest(KINDS["drawn"](4)).ratio.isfinite().all()


def test_seeds_and_figures_of_numpy_are_those_of_python():
    for seed in (np.int64(7), np.int32(7), np.uint8(7)):
        assert torch.equal(keyed.normal((3,), seed, "a"), keyed.normal((3,), 7, "a"))
    found = jsonable({"seed": np.int64(3), "x": [np.float32(0.5), np.nan, -np.inf], 1: (True, None),
                      "t": torch.tensor([1.0, torch.inf]), "b": np.bool_(True)})  # fmt: skip
    assert found == {"seed": 3, "x": [0.5, None, None], "1": [True, None], "t": [1.0, None],
                     "b": True}  # fmt: skip
