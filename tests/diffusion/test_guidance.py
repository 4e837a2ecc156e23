"""Guidance: its identities as properties, and posteriors that are known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.diffusion.denoise import denoiser
from ldm.diffusion.exact import as_network, gaussian
from ldm.diffusion.grids import GRIDS
from ldm.diffusion.guidance import cfg, perturbed, steer, steer_x0
from ldm.diffusion.plane import EPS, PREDICTIONS, V
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.schedules import SCHEDULES

SCHEDULE = SCHEDULES["scaled_linear"]()
X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TIMES = st.floats(1e-3, 1)


def level_at(t):
    return SCHEDULE.level(torch.tensor(t, dtype=torch.float64))


def cond(x, level):
    return x.sin()


def uncond(x, level):
    return 0.5 * x.cos()


def never(x, level):
    raise AssertionError("this network is not needed")


@settings(max_examples=20, deadline=None)
@given(t=TIMES, rescale=st.floats(0, 1))
def test_scale_1_is_the_conditional_and_needs_no_other(t, rescale):
    assert torch.equal(cfg(cond, never, 1.0, rescale=rescale)(X, level_at(t)), cond(X, None))


@settings(max_examples=20, deadline=None)
@given(t=TIMES, rescale=st.floats(0, 1))
def test_scale_0_is_the_unconditional_and_needs_no_other(t, rescale):
    assert torch.equal(cfg(never, uncond, 0.0, rescale=rescale)(X, level_at(t)), uncond(X, None))


@settings(max_examples=30, deadline=None)
@given(t=TIMES, scale=st.floats(-2, 10))
def test_guidance_is_affine_in_the_scale(t, scale):
    found = cfg(cond, uncond, scale)(X, level_at(t))
    torch.testing.assert_close(found, (1 - scale) * uncond(X, None) + scale * cond(X, None))


@settings(max_examples=20, deadline=None)
@given(t=TIMES, scale=st.floats(1.5, 10))
def test_full_rescaling_restores_each_images_standard_deviation(t, scale):
    found = cfg(cond, uncond, scale, rescale=1.0)(X, level_at(t))
    torch.testing.assert_close(found.std((1, 2, 3)), cond(X, None).std((1, 2, 3)))
    plain = cfg(cond, uncond, scale)(X, level_at(t))
    half = cfg(cond, uncond, scale, rescale=0.5)(X, level_at(t))
    torch.testing.assert_close(half, (found + plain) / 2)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_unrescaled_guidance_is_the_same_in_every_space(name):
    """Guiding F guides the score, whatever F is."""
    a, b = (gaussian(torch.full((48,), m), torch.eye(48).double()) for m in (0.5, -0.5))
    x, level = X.flatten(1), level_at(0.5)
    prediction = PREDICTIONS[name]
    networks = (as_network(d, prediction) for d in (a, b))
    found = denoiser(cfg(*networks, 3.0), SCHEDULE, prediction)(x, level)
    torch.testing.assert_close(found.eps, b(x, level).eps + 3 * (a(x, level).eps - b(x, level).eps))


def test_outside_its_interval_the_conditional_stands_alone():
    ratio = {t: float(level_at(t).sigma / level_at(t).alpha) for t in (0.2, 0.5, 0.9)}
    guided = cfg(cond, uncond, 3.0, interval=(ratio[0.2] + 1e-6, ratio[0.9] - 1e-6))
    for t, inside in ((0.2, False), (0.5, True), (0.9, False)):
        assert torch.equal(guided(X, level_at(t)), cond(X, None)) != inside


def test_at_pure_noise_the_ratio_is_infinite_and_an_open_interval_holds_it():
    noise = SCHEDULES["flow"]().level(torch.tensor(1.0, dtype=torch.float64))
    assert not torch.equal(cfg(cond, uncond, 3.0)(X, noise), cond(X, None))
    assert torch.equal(cfg(cond, uncond, 3.0, interval=(0, 1e9))(X, noise), cond(X, None))


def test_the_scale_may_depend_on_the_level():
    guided = cfg(cond, uncond, lambda level: 1 + 4 * float(level.t))
    expected = cfg(cond, uncond, 3.0)(X, level_at(0.5))
    torch.testing.assert_close(guided(X, level_at(0.5)), expected)


def test_a_pair_is_asked_once_instead_of_both():
    calls = []

    def pair(x, level):
        calls.append(level)
        return cond(x, level), uncond(x, level)

    found = cfg(never, never, 3.0, pair=pair)(X, level_at(0.5))
    assert torch.equal(found, cfg(cond, uncond, 3.0)(X, level_at(0.5)))
    assert len(calls) == 1


def test_the_learned_variance_is_guided_along():
    def with_variance(network, value):
        return lambda x, level: torch.cat([network(x, level), torch.full_like(x, value)], 1)

    found = cfg(with_variance(cond, 0.3), with_variance(uncond, 0.2), 3.0)(X, level_at(0.5))
    assert torch.equal(found[:, :3], cfg(cond, uncond, 3.0)(X, level_at(0.5)))
    torch.testing.assert_close(found[:, 3:], torch.full_like(X, 0.5))


def test_a_perturbed_network_is_pushed_away_from_and_left_alone_at_scale_0():
    def worse(x, level):
        return 0.1 * x

    guided, level = cfg(cond, uncond, 3.0), level_at(0.5)
    found = perturbed(guided, cond, worse, 2.0)(X, level)
    torch.testing.assert_close(found, guided(X, level) + 2 * (cond(X, level) - worse(X, level)))
    assert torch.equal(perturbed(guided, never, never, 0.0)(X, level), guided(X, level))
    alone = perturbed(cond, cond, worse, 2.0)(X, level)
    torch.testing.assert_close(alone, cfg(cond, worse, 3.0)(X, level))


# Steering: with a Gaussian prior and a Gaussian likelihood the posterior is known

D, NOISE = 3, 0.4
MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
PRIOR = torch.diag(torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64))
SEEN = torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64)  # y = x0 + NOISE·(normal)
PRECISION = PRIOR.inverse() + torch.eye(D).double() / NOISE**2
POSTERIOR = PRECISION.inverse()
POSTERIOR_MEAN = POSTERIOR @ (PRIOR.inverse() @ MEAN + SEEN / NOISE**2)
PRIOR_DENOISER, POSTERIOR_DENOISER = gaussian(MEAN, PRIOR), gaussian(POSTERIOR_MEAN, POSTERIOR)
POINTS = torch.randn(5, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def log_likelihood(x, level):
    """log p(y | x_t), of which x0 | x_t is Gaussian."""
    x0 = PRIOR_DENOISER(x, level).x0
    spread = (
        PRIOR.diagonal() * level.sigma**2 / (level.alpha**2 * PRIOR.diagonal() + level.sigma**2)
    )
    return -((SEEN - x0) ** 2 / (spread + NOISE**2)).sum(1) / 2


@settings(max_examples=20, deadline=None)
@given(t=st.floats(0.01, 1))
def test_steering_by_the_true_classifier_is_the_posteriors_denoiser(t):
    found = steer(PRIOR_DENOISER, log_likelihood)(POINTS, level_at(t))
    expected = POSTERIOR_DENOISER(POINTS, level_at(t))
    torch.testing.assert_close(found.x0, expected.x0)
    torch.testing.assert_close(found.eps, expected.eps)


def test_steered_samples_are_the_posteriors():
    levels = GRIDS["trailing"](SCHEDULE, 50)
    steered, exact = (
        list(SAMPLERS["dpmpp_2m"](d, POINTS, levels))[-1].x
        for d in (steer(PRIOR_DENOISER, log_likelihood), POSTERIOR_DENOISER)
    )
    torch.testing.assert_close(steered, exact)


def test_steering_through_x0_is_the_gradient_through_the_denoiser():
    def closeness(x0):
        return -((x0 - SEEN) ** 2).sum(1) / (2 * NOISE**2)

    level = level_at(0.5)
    found = steer_x0(PRIOR_DENOISER, closeness, 0.7)(POINTS, level)
    plain = PRIOR_DENOISER(POINTS, level)
    shrink = level.alpha * PRIOR.diagonal() / (level.alpha**2 * PRIOR.diagonal() + level.sigma**2)
    gradient = 0.7 * shrink * (SEEN - plain.x0) / NOISE**2
    torch.testing.assert_close(found.eps, plain.eps - level.sigma * gradient)
    torch.testing.assert_close(found.x0, plain.x0 + level.sigma**2 / level.alpha * gradient)


@pytest.mark.parametrize("kind", ["steer", "steer_x0"])
def test_steering_leaves_no_gradient_behind(kind):
    """Neither on x, nor on the weights, nor where gradients are off."""
    weight = torch.nn.Parameter(torch.ones(3, 1, 1, dtype=torch.float64))
    denoise = denoiser(lambda x, level: weight * x, SCHEDULE, V)
    if kind == "steer":
        steered = steer(denoise, lambda x, level: -(x**2).sum((1, 2, 3)), 1.0)
    else:
        steered = steer_x0(denoise, lambda x0: -(x0**2).sum((1, 2, 3)), 1.0)
    with torch.no_grad():
        found = steered(X, level_at(0.5))
    assert not found.x0.requires_grad
    assert not found.eps.requires_grad
    assert weight.grad is None
    assert not X.requires_grad


def test_steering_is_silent_at_pure_noise():
    level = SCHEDULES["flow"]().level(torch.tensor(1.0, dtype=torch.float64))
    found = steer(PRIOR_DENOISER, log_likelihood)(POINTS, level)
    torch.testing.assert_close(found.x0, PRIOR_DENOISER(POINTS, level).x0)


def test_steering_towards_lower_scores_is_steering_backwards():
    level = level_at(0.5)
    up, down = (steer(PRIOR_DENOISER, log_likelihood, s)(POINTS, level).x0 for s in (1.0, -1.0))
    plain = PRIOR_DENOISER(POINTS, level).x0
    torch.testing.assert_close(up - plain, plain - down)
    assert math.isfinite(up.sum())
    assert EPS.det(level) == level.alpha
