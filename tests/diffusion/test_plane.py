"""The algebra of the plane, as properties at every level of every schedule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.diffusion.plane import (
    EPS,
    PREDICTIONS,
    X0,
    Estimate,
    Level,
    V,
    clean,
    edm,
    error_gain,
    fit,
    noised,
    posterior,
    resolve,
    step,
    target,
)
from ldm.diffusion.schedules import SCHEDULES

VALUES = st.floats(-4, 4)
TIMES = st.one_of(st.sampled_from([0.0, 1.0, 1e-3, 0.999]), st.floats(0, 1))
ALL = {name: make() for name, make in SCHEDULES.items() if name != "table"}
ALL |= {f"{name}-zero-snr": SCHEDULES[name](zero_snr=True) for name in ("linear", "cosine")}


def scalar(value):
    return torch.tensor([value], dtype=torch.float64)


def level_at(schedule, t):
    with torch.no_grad():
        return schedule.level(scalar(t))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", ALL)
@settings(max_examples=15, deadline=None)
@given(x0=VALUES, eps=VALUES, t=TIMES)
def test_resolve_undoes_target(prediction, schedule, x0, eps, t):
    """To rounding over the determinant; except where F says nothing that x does not."""
    level, p = level_at(ALL[schedule], t), PREDICTIONS[prediction]
    det = p.det(level).abs().item()
    if det < 1e-150:
        assert prediction in ("epsilon", "sample")
        assert det == (level.alpha if prediction == "epsilon" else level.sigma)
        return
    x0, eps = scalar(x0), scalar(eps)
    estimate = resolve(noised(x0, eps, level), target(x0, eps, level, p), level, p)
    limit = 1e-14 * (1 + level.sigma.item()) / min(det, 1)
    torch.testing.assert_close(estimate.x0, x0, rtol=0, atol=limit)
    torch.testing.assert_close(estimate.eps, eps, rtol=0, atol=limit)


@pytest.mark.parametrize("schedule", ALL)
@settings(max_examples=15, deadline=None)
@given(x0=VALUES, eps=VALUES, t=TIMES)
def test_a_step_from_a_level_to_itself_is_the_identity(schedule, x0, eps, t):
    """Also with the noise of the posterior, of which there is none."""
    level, x0, eps = level_at(ALL[schedule], t), scalar(x0), scalar(eps)
    x = noised(x0, eps, level)
    std = posterior(level, level)[0].sqrt() if level.sigma > 0 else torch.zeros(1)
    again = step(Estimate(x0, eps), level, std, scalar(3.0))
    torch.testing.assert_close(again, x, rtol=1e-12, atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(x0=VALUES, eps=VALUES, alpha=st.floats(0.01, 1), sigma=st.floats(0.01, 50))
def test_edm_is_karras_table_1(x0, eps, alpha, sigma):
    """D = c_skip·x̃ + c_out·F at σ̃ = σ/α, x̃ = x/α."""
    level = Level(scalar(0.5), scalar(alpha), scalar(sigma))
    x, out = noised(scalar(x0), scalar(eps), level), scalar(1.7)
    s, data = sigma / alpha, 0.5
    c_skip, c_out = data**2 / (s**2 + data**2), s * data / math.hypot(s, data)
    expected = c_skip * x / alpha + c_out * out
    torch.testing.assert_close(resolve(x, out, level, edm(data)).x0, expected)
    c_in = edm(data).c_in(level)
    torch.testing.assert_close(c_in * x, x / alpha / math.hypot(s, data))


def test_edm_with_unit_data_on_a_variance_preserving_path_is_minus_v():
    level = SCHEDULES["cosine"]().level(torch.linspace(0, 1, 11, dtype=torch.float64))
    for mine, v in zip(edm(1.0).direction(level), V.direction(level), strict=True):
        torch.testing.assert_close(mine, -v)
    torch.testing.assert_close(edm(1.0, sign=-1).direction(level)[0], V.direction(level)[0])


def test_error_gain_is_the_squared_error_of_f_for_one_of_x0():
    level = SCHEDULES["linear"]().level(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    x, x0 = torch.randn(2, 3, dtype=torch.float64)
    for prediction in PREDICTIONS.values():
        eps, other = (x - level.alpha * x0) / level.sigma, x0 + 1
        moved = (x - level.alpha * other) / level.sigma  # x̂0 off by one, x as it was
        error = target(other, moved, level, prediction) - target(x0, eps, level, prediction)
        torch.testing.assert_close(error_gain(level, prediction), error**2)
    torch.testing.assert_close(error_gain(level, EPS), level.snr)
    torch.testing.assert_close(error_gain(level, X0), torch.ones(3).double())
    torch.testing.assert_close(error_gain(level, V), level.snr + 1)


def test_posterior_is_that_of_ddpms_table():
    schedule = SCHEDULES["linear"]()
    n = torch.arange(1, 1000)
    a, b = (schedule.level((n + 1 - k).double() / 1000) for k in (0, 1))
    beta, bar = schedule.betas, schedule.alphas_cumprod
    small, large = posterior(a, b)
    torch.testing.assert_close(large, beta[n], rtol=1e-10, atol=0)
    torch.testing.assert_close(small, (1 - bar[n - 1]) / (1 - bar[n]) * beta[n], rtol=1e-10, atol=0)


def test_posterior_is_finite_at_both_ends():
    noise = Level(*torch.tensor([1.0, 0.0, 1.0]).double())
    middle = SCHEDULES["flow"]().level(torch.tensor(0.5).double())
    assert posterior(middle, clean()) == (0, middle.sigma**2)
    assert posterior(noise, middle) == (middle.sigma**2, 1)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_coefficients_take_the_shape_dtype_and_device_of_x(shape):
    x = torch.zeros(3, 2, 4, 4, dtype=torch.float16)
    c = fit(torch.rand(shape, dtype=torch.float64), x)
    assert c.dtype == x.dtype
    assert (c * x).shape == x.shape


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS.keys())
def test_float32_targets_keep_float32s_precision_at_small_noise(prediction):
    """Formed from x0 and ε; recovered from x they would be off by 1e-4."""
    level = SCHEDULES["linear"]().level(torch.tensor(1e-3).double())
    x0, eps = torch.randn(2, 1000, dtype=torch.float64)
    exact = target(x0, eps, level, prediction)
    torch.testing.assert_close(
        target(x0.float(), eps.float(), level, prediction).double(), exact, rtol=3e-7, atol=1e-6
    )


def test_gradients_pass_through_a_levels_coefficients():
    x0, eps = torch.randn(2, 3, 2, dtype=torch.float64)

    def there(alpha):
        return noised(x0, eps, Level(alpha, alpha, (1 - alpha**2).sqrt()))

    def there_and_back(alpha):
        level = Level(alpha, alpha, (1 - alpha**2).sqrt())
        return resolve(there(alpha), target(x0, eps, level, V), level, V).x0

    alpha = torch.tensor(0.8, dtype=torch.float64)
    slope = torch.func.jacrev(there)(alpha)
    torch.testing.assert_close(slope, x0 - 0.8 / 0.6 * eps)
    torch.testing.assert_close(torch.func.jacrev(there_and_back)(alpha), torch.zeros_like(x0))
