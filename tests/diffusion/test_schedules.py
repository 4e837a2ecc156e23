"""Schedules against diffusers' tables, and their inverses."""

import math

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.diffusion.contract import known_label
from ldm.diffusion.schedules import (
    SCHEDULES,
    VE,
    Cosine,
    Flow,
    interpolate,
    snap,
    zero_terminal_snr,
)

ALL = {name: make() for name, make in SCHEDULES.items() if name != "table"}
TABLES = ("linear", "scaled_linear", "cosine", "sigmoid")
ALL |= {f"{name}-zero-snr": SCHEDULES[name](zero_snr=True) for name in TABLES}
ALL |= {"flow-shift3": Flow(3.0), "cosine-to-the-ends": Cosine(1.0, 0.0)}


def times(n):
    return torch.linspace(0, 1, n, dtype=torch.float64)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None)
@given(t=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)))
def test_time_undoes_level(name, t):
    """Also at the ends, where the log-SNR is infinite."""
    t = torch.tensor([t], dtype=torch.float64)
    with torch.no_grad():
        again = ALL[name].time(ALL[name].level(t).log_snr)
    torch.testing.assert_close(again, t, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_noise_only_grows(name):
    with torch.no_grad():
        level = ALL[name].level(times(3001))
    assert (level.log_snr.diff() < 0).all()
    assert (level.sigma >= 0).all()
    assert (level.alpha >= 0).all()


@pytest.mark.parametrize("name", ALL)
def test_time_is_clamped_beyond_the_ends(name):
    """At infinite log-SNR too, where a level is clean or pure noise."""
    infinite = torch.tensor([math.inf, -math.inf], dtype=torch.float64)
    torch.testing.assert_close(ALL[name].time(infinite), times(2), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name, theirs",
    [
        ("linear", {"beta_schedule": "linear"}),
        (
            "scaled_linear",
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        ),
        ("cosine", {"beta_schedule": "squaredcos_cap_v2"}),
        ("sigmoid", {"beta_schedule": "sigmoid"}),
    ],
)
@pytest.mark.parametrize("steps", [1000, 200])
def test_tables_are_diffusers(name, theirs, steps):
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=steps, **theirs)
    torch.testing.assert_close(
        SCHEDULES[name](steps=steps).betas.float(), scheduler.betas, rtol=3e-5, atol=1e-7
    )


def test_zero_terminal_snr_is_diffusers_and_ends_in_pure_noise():
    betas = SCHEDULES["scaled_linear"]().betas
    torch.testing.assert_close(zero_terminal_snr(betas), rescale_zero_terminal_snr(betas))
    schedule = SCHEDULES["scaled_linear"](zero_snr=True)
    last = schedule.level(torch.ones((), dtype=torch.float64))
    assert (last.alpha, last.sigma) == (0, 1)
    first = torch.tensor(1e-3, dtype=torch.float64)
    plain = SCHEDULES["scaled_linear"]()
    torch.testing.assert_close(schedule.level(first).alpha, plain.level(first).alpha)


@pytest.mark.parametrize("name", TABLES)
def test_entries_are_exact_and_labelled_by_their_index(name):
    schedule = SCHEDULES[name]()
    n = torch.arange(1000)
    t = (n.double() + 1) / 1000
    assert torch.equal(schedule.level(t).alpha, schedule.alphas_cumprod.sqrt())
    assert torch.equal(schedule.level(t).sigma, (1 - schedule.alphas_cumprod).sqrt())
    assert torch.equal(known_label(schedule, schedule.level(t)), n.double())


def test_between_entries_log_snr_is_linear_and_the_square_sum_is_one():
    schedule = SCHEDULES["scaled_linear"]()
    level = schedule.level(torch.tensor([500.0, 500.25, 501.0]).double() / 1000)
    expected = 0.75 * level.log_snr[0] + 0.25 * level.log_snr[2]
    torch.testing.assert_close(level.log_snr[1], expected)
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(3).double())


def test_below_the_first_entry_the_ratio_falls_to_zero():
    schedule = SCHEDULES["linear"]()
    level = schedule.level(torch.tensor([0.0, 0.0005, 0.001]).double())
    ratio = level.sigma / level.alpha
    torch.testing.assert_close(ratio, ratio[2] * torch.tensor([0.0, 0.5, 1.0]).double())


def test_snap_is_the_entry_that_uniform_training_draws():
    schedule = SCHEDULES["linear"](steps=10)
    u = torch.tensor([0.0, 0.0999, 0.1, 0.95, 0.9999], dtype=torch.float64)
    assert torch.equal(snap(schedule, u) * 10 - 1, torch.tensor([0, 0, 1, 9, 9]).double())
    assert torch.equal(snap(Flow(), u), u)


def test_continuous_cosine_runs_between_its_signal_rates():
    level = Cosine(s_max=0.95, s_min=0.02).level(times(3))
    torch.testing.assert_close(level.alpha[[0, 2]], torch.tensor([0.95, 0.02]).double())
    angle = (math.acos(0.95) + math.acos(0.02)) / 2
    torch.testing.assert_close(level.alpha[1].item(), math.cos(angle))
    torch.testing.assert_close(level.sigma[1].item(), math.sin(angle))


def test_flow_is_a_straight_line_and_shifts_compose():
    t = times(101)
    level = Flow().level(t)
    assert torch.equal(level.alpha, 1 - t)
    assert torch.equal(level.sigma, t)
    twice = Flow(2.0).level(Flow(3.0).level(t).sigma).sigma
    torch.testing.assert_close(Flow(6.0).level(t).sigma, twice)


def test_shift_is_that_of_the_log_snr():
    """Shifting by s is halving the signal s-fold: λ falls by 2·log s (Hoogeboom et al. 2023)."""
    t = times(99)[1:-1]
    moved = Flow().level(t).log_snr - Flow(3.0).level(t).log_snr
    torch.testing.assert_close(moved, torch.full_like(t, 2 * math.log(3)))


def test_ve_is_geometric_and_labelled_as_in_edm():
    level = VE().level(times(3))
    torch.testing.assert_close(level.sigma, torch.tensor([0.002, 0.4, 80.0]).double())
    torch.testing.assert_close(known_label(VE(), level), level.sigma.log() / 4)


def test_interpolate_is_numpys():
    import numpy

    x, xs, ys = torch.randn(50).double(), torch.randn(9).double().sort().values, torch.randn(9)
    expected = torch.from_numpy(numpy.interp(x.numpy(), xs.numpy(), ys.numpy()))
    torch.testing.assert_close(interpolate(x, xs, ys.double()), expected)


def test_levels_of_a_fixed_schedule_carry_no_gradient():
    for name, schedule in ALL.items():
        if name != "learned":
            assert not schedule.level(times(3)).alpha.requires_grad
    assert ALL["learned"].level(times(3)).alpha.requires_grad
