"""The learned schedule: one like the others, that finds where the ELBO's variance comes from."""

import math

import pytest
import torch
from exact import draw, spd

from ldm.diffusion.contract import known_label
from ldm.diffusion.denoise import denoiser
from ldm.diffusion.exact import as_network, gaussian
from ldm.diffusion.grids import GRIDS
from ldm.diffusion.learned import Learned, vlb_loss
from ldm.diffusion.likelihood import elbo
from ldm.diffusion.plane import EPS, PREDICTIONS, V, error_gain
from ldm.diffusion.schedules import table

D = 4
MEAN = torch.tensor([0.5, -1.0, 0.3, 0.0], dtype=torch.float64)
EIGENVALUES = torch.tensor([2.0, 1.0, 0.3, 0.05], dtype=torch.float64)
COVARIANCE = spd(*EIGENVALUES.tolist())
EXACT = gaussian(MEAN, COVARIANCE)
NETWORK = as_network(EXACT, V)


def bent():
    """A schedule whose curve is no longer its first one."""
    schedule = Learned()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in schedule.parameters():
            p += 0.7 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return schedule


def label(schedule, t):
    return known_label(schedule, schedule.level(t))


def batch(n, seed):
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(n, D, generator=generator, dtype=torch.float64)
    return draw(MEAN, COVARIANCE, n, seed + 1), eps, torch.rand(n, generator=generator).double()


def noise_left(log_snr):
    """Var(ε | x) in each eigendirection, (..., D): α²λ_i/(α²λ_i + σ²)."""
    signal = log_snr.exp()[..., None] * EIGENVALUES
    return signal / (signal + 1)


def test_time_inverts_level_and_the_ends_are_fixed():
    schedule, t = bent(), torch.linspace(0, 1, 101, dtype=torch.float64)
    level = schedule.level(t)
    torch.testing.assert_close(schedule.time(level.log_snr), t, atol=1e-12, rtol=0)
    torch.testing.assert_close(level.log_snr[[0, -1]].detach(), torch.tensor([13.3, -5.0]).double())
    beyond = torch.tensor([math.inf, -math.inf], dtype=torch.float64)
    torch.testing.assert_close(schedule.time(beyond), torch.tensor([0.0, 1.0]).double())


def test_rate_is_the_derivative_and_positive():
    schedule, t = bent(), torch.linspace(0, 1, 101, dtype=torch.float64)
    value, rate = schedule.log_snr(t)
    _, derivative = torch.func.jvp(lambda t: schedule.log_snr(t)[0], (t,), (torch.ones_like(t),))
    torch.testing.assert_close(rate, -derivative)
    assert (rate > 0).all()
    assert (value.diff() < 0).all()


def test_exported_table_labels_every_level_as_training_did():
    """The curve is how often training looks, so the table does not depend on it."""
    schedule = bent()
    exported = table(schedule.betas().tolist())
    entries = torch.arange(1, 1001, dtype=torch.float64) / 1000
    t = schedule.time(exported.level(entries).log_snr)
    torch.testing.assert_close(label(schedule, t), label(exported, entries), atol=1e-6, rtol=0)
    between = torch.linspace(-4.9, 13.2, 57, dtype=torch.float64)
    labels = label(exported, exported.time(between))
    torch.testing.assert_close(label(schedule, schedule.time(between)), labels, atol=1e-6, rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v", "flow", "edm"])
def test_loss_is_the_same_for_every_prediction(prediction):
    x0, eps, t = batch(64, 0)
    prediction = PREDICTIONS[prediction]
    loss = vlb_loss(as_network(EXACT, prediction), bent(), prediction, x0, eps, t)
    torch.testing.assert_close(loss, vlb_loss(NETWORK, bent(), V, x0, eps, t))


def test_loss_is_the_integral_that_many_steps_of_the_elbo_sum_to():
    """∫ ½·E|ε - ε̂|² dλ in nats per element: VDM eq. 18. A schedule's curve changes nothing."""
    log_snr = torch.linspace(-5, 13.3, 20001, dtype=torch.float64)
    integral = torch.trapezoid(noise_left(log_snr).mean(1) / 2, log_snr)

    units = D**0.5 * torch.cat([torch.eye(D), -torch.eye(D)]).double()  # covariance 1, exactly
    x0 = (MEAN + units @ torch.linalg.cholesky(COVARIANCE).T).repeat_interleave(2 * D, 0)
    eps = units.repeat(2 * D, 1)
    t = ((torch.arange(500, dtype=torch.float64) + 0.5) / 500).repeat_interleave(64)
    schedule = bent()
    with torch.no_grad():
        loss = vlb_loss(NETWORK, schedule, V, x0.repeat(500, 1), eps.repeat(500, 1), t)
    torch.testing.assert_close(loss.mean(), integral, rtol=1e-4, atol=0)

    levels = GRIDS["trailing"](table(schedule.betas().tolist()), 1000)
    steps = elbo(EXACT, x0, levels, lambda i: eps).steps.mean(1)
    first = (levels[0].log_snr, levels[-2].log_snr)  # the table starts a step below the clean end
    inside = (log_snr >= first[0]) & (log_snr <= first[1])
    part = torch.trapezoid(noise_left(log_snr[inside]).mean(1) / 2, log_snr[inside])
    torch.testing.assert_close(steps.sum() * math.log(2), part, rtol=0.01, atol=0)


def test_schedule_gets_the_gradient_of_the_variance_and_the_network_that_of_the_loss():
    """One backward pass gives both: d E[L²] for the curve, on which E[L] does not depend."""
    x0, eps, t = batch(32, 0)
    gain = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    schedule, plain = bent(), bent()
    vlb_loss(lambda x, level: gain * NETWORK(x, level), schedule, V, x0, eps, t).mean().backward()

    def by_hand(gain):
        """The same loss from the schedule's level and its derivative, with nothing hooked."""
        rate = plain.log_snr(t)[1]
        level = plain.level(t)
        x = level.alpha[:, None] * x0 + level.sigma[:, None] * eps
        v = level.alpha[:, None] * eps - level.sigma[:, None] * x0
        error = (gain * NETWORK(x, level) - v).square().mean(1)
        return 0.5 * rate * level.snr / error_gain(level, V) * error

    fixed = gain.detach().requires_grad_()
    (expected,) = torch.autograd.grad(by_hand(fixed).mean(), fixed)
    torch.testing.assert_close(gain.grad, expected)
    squares = torch.autograd.grad(by_hand(fixed).square().mean(), list(plain.parameters()))
    for p, g in zip(schedule.parameters(), squares, strict=True):
        assert g.abs().max() > 0
        torch.testing.assert_close(p.grad, g)


def test_training_reaches_the_least_variance_and_leaves_the_mean():
    """The least E[L²] of any schedule is (∫ √E[(½|ε-ε̂|²)²] dλ)², of importance sampling in λ.

    From 1.31 times that to within 2 %, in 200 steps.
    """
    log_snr = torch.linspace(-5, 13.3, 20001, dtype=torch.float64)
    left = noise_left(log_snr)

    def square(left):
        """E[(½|ε - ε̂|²/D)²], a Gaussian quadratic form's second moment."""
        return (left.sum(1) ** 2 + 2 * (left**2).sum(1)) / (2 * D) ** 2

    def second_moment(schedule):
        t = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
        with torch.no_grad():
            value, rate = schedule.log_snr(t)
        return (rate**2 * square(noise_left(value))).mean()

    least = torch.trapezoid(square(left).sqrt(), log_snr) ** 2
    schedule = Learned()
    assert second_moment(schedule) > 1.3 * least
    optimizer = torch.optim.Adam(schedule.parameters(), lr=0.05, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for i in range(200):
        optimizer.zero_grad()
        vlb_loss(NETWORK, schedule, V, *batch(512, 2 * i)).mean().backward()
        optimizer.step()
        decay.step()
    assert least < second_moment(schedule) < 1.02 * least

    mean = torch.trapezoid(left.mean(1) / 2, log_snr)
    x0, eps, t = batch(20000, 999)
    loss = vlb_loss(NETWORK, schedule, V, x0, eps, t).detach()
    assert abs(loss.mean() - mean) < 4 * loss.std() / 20000**0.5


def test_sampling_levels_carry_no_gradient_where_gradients_are_off():
    with torch.no_grad():
        levels = GRIDS["trailing"](bent(), 10)
    assert not any(c.requires_grad for level in levels for c in level)
    assert not label(bent(), torch.tensor(0.5).double()).requires_grad


def test_denoiser_accepts_the_learned_schedule():
    """It ends at a signal of e^-2.5, so that ε may be predicted."""
    schedule = bent()
    x = torch.zeros(1, D).double()
    with torch.no_grad():
        level = schedule.level(torch.tensor(0.7).double())
        found = denoiser(as_network(EXACT, EPS), schedule, EPS)(x, level)
        torch.testing.assert_close(found.x0, EXACT(x, level).x0)
