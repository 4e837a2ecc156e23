"""Times that remember where the loss was large, and quantiles that are even in a run."""

import pytest
import torch

from ldm.diffusion.schedules import SCHEDULES, VE, Flow, snap
from ldm.training.tasks.times import Importance, sobol

TABLE = SCHEDULES["scaled_linear"]()
U = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000  # a fine, even u


@pytest.mark.parametrize("schedule", [TABLE, Flow(), VE()], ids=["table", "flow", "ve"])
def test_importance_is_a_quantile_function(schedule):
    u = torch.cat([torch.zeros(1).double(), U[::100], torch.ones(1).double() - 2**-53])
    t = trained_importance(schedule)(u, schedule)
    assert t.min() >= 0 and t.max() <= 1
    assert (t.diff() >= 0).all()


def test_importance_is_uniform_until_it_has_a_history():
    sampler = Importance(bins=10, history=3)
    torch.testing.assert_close(sampler(U, Flow()), U)
    sampler.update(U[::2000], torch.ones(10))
    torch.testing.assert_close(sampler.weight(U), torch.ones_like(U))


def trained_importance(schedule):
    sampler = Importance(bins=10, history=4, uniform=0.05)
    for _ in range(4):
        t = snap(schedule, (torch.arange(10).double() + 0.5) / 10)
        sampler.update(t, 1 + 9 * (t > 0.7))
    return sampler


@pytest.mark.parametrize("schedule", [Flow(), TABLE], ids=["flow", "table"])
def test_importance_goes_where_the_loss_was_and_its_weights_undo_that(schedule):
    sampler = trained_importance(schedule)
    t = sampler(U, schedule)
    share = (t > 0.7).double().mean()
    assert share == pytest.approx(0.95 * 30 / 37 + 0.05 * 0.3, abs=1e-3)
    weight = sampler.weight(t)
    assert weight.mean() == pytest.approx(1, abs=1e-3)
    for power in (1, 2):  # a weighted mean is the uniform one
        expected = float(snap(schedule, U).pow(power).mean())
        assert (weight * t**power).mean() == pytest.approx(expected, abs=1e-3)


def test_importance_forgets_old_losses_and_restores_from_its_tensor():
    sampler = trained_importance(Flow())
    again = Importance(bins=10, history=4, uniform=0.05)
    again.losses.copy_(sampler.losses)
    assert torch.equal(again(U, Flow()), sampler(U, Flow()))
    for _ in range(4):
        again.update((torch.arange(10).double() + 0.5) / 10, torch.ones(10))
    torch.testing.assert_close(again(U, Flow()), U)


@pytest.mark.parametrize("start", [0, 64, 448])
def test_sobol_fills_equal_strata_within_any_aligned_batch_and_over_batches(start):
    u = sobol(torch.arange(start, start + 64))
    assert sorted((u * 64).long().tolist()) == list(range(64))
    assert sorted((sobol(torch.arange(512)) * 512).long().tolist()) == list(range(512))


def test_sobol_is_torchs_and_may_be_rotated():
    theirs = torch.quasirandom.SobolEngine(1).draw(256).flatten().double()
    mine = sobol(torch.arange(256))
    assert torch.equal(mine.sort().values, theirs.sort().values)
    torch.testing.assert_close(sobol(torch.arange(256), 0.3), (mine + 0.3) % 1)
