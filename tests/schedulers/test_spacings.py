"""diffusers' grids: what its classes make of the mathematics' own, and what it has beside."""

import math

import numpy as np
import pytest
import torch

from ldm.diffusion import grids
from ldm.diffusion.contract import known_label
from ldm.diffusion.schedules import SCHEDULES, Flow
from ldm.schedulers.spacings import GRIDS

LATENT = SCHEDULES["scaled_linear"]()


def labels(levels, schedule=LATENT):
    return [float(known_label(schedule, level)) for level in levels[:-1]]


@pytest.mark.parametrize("name", sorted(set(GRIDS) - set(grids.GRIDS)))
@pytest.mark.parametrize("schedule", ["linear", "flow", "continuous_cosine", "ve", "sub_vp"])
@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_a_grid_falls_and_ends_clean(name, schedule, n):
    made = SCHEDULES[schedule]()
    if name == "flow" and schedule != "flow":
        with pytest.raises(ValueError, match="grid flow needs schedule flow"):
            GRIDS[name](made, n)
        return
    levels = GRIDS[name](made, n)
    assert len(levels) == n + 1
    ratios = torch.stack([level.sigma / level.alpha for level in levels])
    assert (ratios.diff() < 0).all()
    assert (levels[-1].alpha, levels[-1].sigma) == (1, 0)


def test_without_options_they_are_the_mathematics_own():
    for name, grid in grids.GRIDS.items():
        for n in (1, 8, 40):
            assert GRIDS[name](LATENT, n) == grid(LATENT, n)


@pytest.mark.parametrize("n", [2, 26, 30, 46, 48, 96, 112, 398, 832])
def test_halves_are_rounded_as_numpy_has_them(n):
    """26 to 832 are steps at which the last bit of (k + ½) decides; diffusers counts with NumPy."""
    from_the_top = np.arange(1000, 0, -1000 / n).round() - 1
    assert labels(GRIDS["trailing"](LATENT, n)) == from_the_top.tolist()
    for extra in (0, 1):
        evenly = np.linspace(0, 999, n + extra).round()[::-1][:n]
        assert labels(GRIDS["linspace"](LATENT, n, extra=extra)) == evenly.tolist()


def test_leading_takes_an_offset_and_an_extra_point():
    assert labels(GRIDS["leading"](LATENT, 4, offset=1)) == [751, 501, 251, 1]
    assert labels(GRIDS["leading"](LATENT, 4, extra=1)) == [800, 600, 400, 200]
    assert labels(GRIDS["linspace"](LATENT, 4, extra=1)) == [999, 749, 500, 250]


def test_karras_between_the_ends_of_another_grid():
    between = GRIDS["karras"](LATENT, 10, between="trailing")
    assert labels(between)[0] == 999
    assert labels(between)[-1] == pytest.approx(99)


@pytest.mark.parametrize("told, whole", [("exact", False), ("round", True), ("floor", True)])
def test_a_label_between_entries_may_be_made_whole_while_the_noise_stays(told, whole):
    exact, found = (GRIDS["karras"](LATENT, 10, told=t) for t in ("exact", told))
    assert all(label.is_integer() for label in labels(found)) == whole
    for a, b in zip(exact, found, strict=True):
        assert a.sigma == b.sigma
        assert abs(a.t - b.t) <= 1e-3


def test_flow_grid_tells_whole_labels_of_what_x_is():
    levels = GRIDS["flow"](Flow(3.0), 7)
    for level in levels[:-1]:
        label = float(known_label(Flow(3.0), level))
        assert label == pytest.approx(math.floor(1000 * level.sigma + 1e-9), abs=1e-6)
        assert level.alpha == 1 - level.sigma


def test_lcm_visits_what_was_distilled():
    assert labels(GRIDS["lcm"](LATENT, 4)) == [999, 759, 499, 259]
    with pytest.raises(ValueError, match="distilled on 50"):
        GRIDS["lcm"](LATENT, 51)
