"""The lectures' worked numbers, by name. They round to two decimals, and so compare to ±0.005."""

import math

import pytest
import torch

from ldm.diffusion.guidance import steer
from ldm.diffusion.likelihood import elbo
from ldm.diffusion.loss import denoising_loss
from ldm.diffusion.plane import EPS, Estimate, clean, error_gain, noised, posterior, resolve
from ldm.diffusion.samplers import ddpm, step
from ldm.diffusion.schedules import SCHEDULES, linear, table
from ldm.diffusion.score import score, tweedie


def vector(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)  # (1, D)


def scalar(number):
    return torch.tensor(number, dtype=torch.float64)


def entry(schedule, n):
    """The level after n steps, n = 1 … N, as the lectures count; 0 is clean."""
    return schedule.level(scalar(n / schedule.steps)) if n else clean()


def assert_two_decimals(actual, expected):
    torch.testing.assert_close(actual, expected, atol=0.005, rtol=0)


STEPS = table([0.1, 0.2, 0.3])
BETA, ALPHA_BAR = (0.1, 0.2, 0.3), (0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7)


# T = 200, β from 0.0001 to 0.02


def test_alpha_bar_of_the_linear_schedule():
    bars = torch.stack([entry(linear(steps=200), n).alpha ** 2 for n in (1, 2, 3, 4, 200)])
    lecture = torch.tensor([0.9999, 0.9997, 0.9994, 0.9990, 0.1322], dtype=torch.float64)
    torch.testing.assert_close(bars, lecture, atol=5e-5, rtol=0)


def test_200_steps_of_that_schedule_leave_a_third_of_the_signal():
    """ᾱ_200 = 0.1322 is no pure noise: α = 0.36. The same β over T = 1000 leave 0.006."""
    assert_two_decimals(entry(linear(steps=200), 200).alpha, scalar(0.36))
    assert entry(linear(), 1000).alpha < 0.0065


# The vector [1, 2, -1, 0.5] with β = 0.1, 0.2, 0.3


def test_first_step_of_the_vector():
    """x1 = √0.9·x0 + √0.1·ε1 = [1.11, 1.80, -0.70, 0.41]: all four roundings are right."""
    x0, eps = vector(1, 2, -1, 0.5), vector(0.5, -0.3, 0.8, -0.2)
    assert_two_decimals(noised(x0, eps, entry(STEPS, 1)), vector(1.11, 1.80, -0.70, 0.41))


def test_three_steps_of_the_vector_are_one_draw_of_the_closed_form():
    """x_t = √(1-β_t)·x_{t-1} + √β_t·ε_t, thrice, is √ᾱ_3·x0 + √(1-ᾱ_3)·ε for one standard ε."""
    x = x0 = vector(1, 2, -1, 0.5)
    eps = torch.tensor(
        [[0.5, -0.3, 0.8, -0.2], [-0.4, 0.6, 0.1, 0.9], [0.2, -0.7, 1.1, -0.4]], dtype=torch.float64
    )
    for beta, fresh in zip(BETA, eps, strict=True):
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * fresh
    shares = [math.sqrt(0.1 * 0.8 * 0.7), math.sqrt(0.2 * 0.7), math.sqrt(0.3)]
    assert sum(s**2 for s in shares) == pytest.approx(1 - ALPHA_BAR[2])
    merged = sum(s * e for s, e in zip(shares, eps, strict=True)) / math.sqrt(1 - ALPHA_BAR[2])
    torch.testing.assert_close(x, noised(x0, merged[None], entry(STEPS, 3)))


# x0 = [0.8, -0.5, 0.3, 1.2] at ᾱ = 0.64

X0, NOISE = vector(0.8, -0.5, 0.3, 1.2), vector(0.2, -0.7, 1.1, -0.4)
HALFWAY = table([0.2, 0.2])  # ᾱ = 0.64 after the second step


def test_noised_example():
    """0.8·x0 + 0.6·ε = [0.76, -0.82, 0.90, 0.72], exactly."""
    x = noised(X0, NOISE, entry(HALFWAY, 2))
    torch.testing.assert_close(x, vector(0.76, -0.82, 0.90, 0.72))


def test_loss_of_the_example():
    """An ε̂ off by [0.1, 0.2, 0.2, 0.1] has L = |ε - ε̂|² = 0.10, summed as in DDPM's eq. 14.

    The loss of this project is the mean over elements, so that it means the same at any size.
    """
    guess = NOISE + vector(0.1, -0.2, 0.2, -0.1)
    t = torch.ones(1, dtype=torch.float64)
    loss = denoising_loss(lambda x, level: guess, HALFWAY, EPS, X0, NOISE, t)
    torch.testing.assert_close(4 * loss.double(), torch.tensor([0.10]).double(), atol=1e-7, rtol=0)


def test_x0_is_recovered_from_the_true_noise():
    """x̂0 = (x_t - √(1-ᾱ)·ε)/√ᾱ."""
    x = vector(0.76, -0.82, 0.90, 0.72)
    torch.testing.assert_close(resolve(x, NOISE, entry(HALFWAY, 2), EPS).x0, X0)


# The reverse step


@pytest.mark.parametrize("n", [1, 2, 3])
def test_posterior_is_bayes_rule(n):
    """Mean and variance of q(x_{t-1} | x_t, x0), DDPM eq. 7, from the joint law of both."""
    a, b, beta = entry(STEPS, n), entry(STEPS, n - 1), BETA[n - 1]
    x0, x = scalar(0.8), scalar(-0.3)
    before, now = 1 - b.alpha**2, 1 - a.alpha**2  # variances of x_{t-1} and x_t given x0
    covariance = math.sqrt(1 - beta) * before
    mean = b.alpha * x0 + covariance / now * (x - a.alpha * x0)
    variance = before - covariance**2 / now

    small, large = posterior(a, b)
    torch.testing.assert_close(small, variance)
    torch.testing.assert_close(large, scalar(beta))
    eps = (x - a.alpha * x0) / a.sigma
    torch.testing.assert_close(step(Estimate(x0, eps), b, small.sqrt()), mean)

    bar, bar_before = a.alpha**2, b.alpha**2
    from_x0 = bar_before.sqrt() * beta / (1 - bar)
    from_x = math.sqrt(1 - beta) * (1 - bar_before) / (1 - bar)
    torch.testing.assert_close(from_x0 * x0 + from_x * x, mean)
    torch.testing.assert_close((1 - bar_before) / (1 - bar) * beta, variance)


def test_mean_of_the_reverse_step_in_its_noise_form():
    """μ_θ = (x_t - β_t/√(1-ᾱ_t)·ε̂)/√α_t (DDPM eq. 11), here as the sampler takes it."""
    x, guess = vector(0.5, -1.0, 2.0, 0.1), vector(0.3, -0.2, 1.0, 0.4)
    a, b = entry(STEPS, 2), entry(STEPS, 1)
    ((moved, _, _),) = ddpm(
        lambda x, level: resolve(x, guess, level, EPS), x, [a, b], lambda i: torch.zeros_like(x)
    )
    lecture = (x - BETA[1] / math.sqrt(1 - ALPHA_BAR[1]) * guess) / math.sqrt(1 - BETA[1])
    torch.testing.assert_close(moved, lecture)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_weight_of_a_step_in_the_elbo(n, variance):
    """λ_t = β_t²/(2σ_t²α_t(1-ᾱ_t)) (DDPM eq. 12); ε̂ off by d costs λ_t·|d|² nats.

    At the small variance this is the whole step; at the large one the two variances' divergence
    adds what does not depend on ε̂.
    """
    d = vector(0.1, -0.2, 0.2, -0.1)

    def off(x, level):
        return resolve(x, NOISE + d, level, EPS)

    def right(x, level):
        return resolve(x, NOISE, level, EPS)

    levels = [entry(STEPS, k) for k in (n, n - 1, 0)]
    cost = [
        elbo(f, X0, levels, lambda i: NOISE, variance).steps[0] * 4 * math.log(2)
        for f in (off, right)
    ]
    beta, bar = BETA[n - 1], ALPHA_BAR[n - 1]
    sigma2 = {"small": (1 - ALPHA_BAR[n - 2]) / (1 - bar) * beta, "large": beta}[variance]
    weight = beta**2 / (2 * sigma2 * (1 - beta) * (1 - bar))
    torch.testing.assert_close(cost[0] - cost[1], weight * d.square().sum(1))
    if variance == "small":
        torch.testing.assert_close(cost[1], torch.zeros(1).double())
        by_snr = (
            (levels[1].snr - levels[0].snr) / 2 * error_gain(levels[0], EPS) ** -1
        )  # VDM eq. 13
        torch.testing.assert_close(by_snr, scalar(weight))


# Identities


@pytest.mark.parametrize(
    "name", ["linear", "scaled_linear", "cosine", "sigmoid", "continuous_cosine", "vp", "learned"]
)
def test_signal_and_noise_squared_add_to_one(name):
    """So unit variance is preserved, and SNR = ᾱ/(1-ᾱ)."""
    level = SCHEDULES[name]().level(torch.linspace(0.01, 0.99, 99, dtype=torch.float64))
    one = torch.ones(99, dtype=torch.float64)
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, one)
    bar = level.alpha**2
    torch.testing.assert_close(level.snr, bar / (1 - bar))


def test_unit_variance_is_preserved_by_each_step():
    """Var x_t = (1-β_t)·Var x_{t-1} + β_t = 1 where Var x0 = 1."""
    variance = 1.0
    for n, beta in enumerate(BETA, 1):
        variance = (1 - beta) * variance + beta
        level = entry(STEPS, n)
        assert variance == pytest.approx(1)
        assert float(level.alpha**2 * 1 + level.sigma**2) == pytest.approx(variance)


def test_guided_score_of_the_example():
    """[0.5, -0.3, 0.2] + 2·[0.1, 0.4, -0.2] = [0.7, 0.5, -0.2], as `steer` guides a denoiser."""
    level, x = entry(HALFWAY, 2), vector(0.76, -0.82, 0.90)
    own, towards_label = vector(0.5, -0.3, 0.2), vector(0.1, 0.4, -0.2)
    guided = steer(
        lambda x, level: tweedie(x, own, level),
        lambda x, level: (x * towards_label).sum(1),  # log p(y | x), whose gradient this is
        scale=2.0,
    )(x, level)
    torch.testing.assert_close(score(guided, level), vector(0.7, 0.5, -0.2))
    torch.testing.assert_close(noised(guided.x0, guided.eps, level), x)
