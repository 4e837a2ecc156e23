import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from ldm.errors import UserError
from ldm.training.post_hoc_ema import (
    LENGTHS,
    PowerEMA,
    coefficients,
    decay,
    exponent,
    forget_after,
    overlap,
    reconstruct,
    snapshots,
)

STEPS, EVERY = 600, 30
WANTED = (0.02, 0.05, 0.1, 0.15, 0.25)


def profile(gamma, end):
    return lambda t: (gamma + 1) * t**gamma / end ** (gamma + 1)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A noisy optimisation that never stands still, with its snapshots and its true averages."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    folder = tmp_path_factory.mktemp("snapshots")
    kept, true = PowerEMA(model), PowerEMA(model, WANTED)
    middle = {}
    for step in range(1, STEPS + 1):
        x = torch.randn(8, 6)
        wanted = torch.stack([x[:, 0] * x[:, 1], (x.sum(1) + step / 150).sin()], 1)
        optimizer.zero_grad()
        (model(x) - wanted).square().mean().backward()
        optimizer.step()
        kept.update(step)
        true.update(step)
        if step % EVERY == 0:
            kept.snapshot(folder, step)
        if step == STEPS // 2:
            middle = {k: v.clone() for k, v in true.state_dict().items()}
    return folder, model, true, middle


def flat(state, length=None):
    prefix = "" if length is None else f"{length:.3f}/"
    parts = [v.flatten() for k, v in sorted(state.items()) if k.startswith(prefix)]
    return torch.cat(parts).double()


@pytest.mark.parametrize("length", WANTED)
def test_any_length_is_reconstructed_to_under_one_percent(training, length):
    folder, model, true, _ = training
    expected = flat(true.state_dict(), length)
    found = flat(reconstruct(folder, length))
    assert (found - expected).norm() < 0.01 * expected.norm()
    # and relative to what averaging does at all
    moved = (flat(model.state_dict()) - expected).norm()
    assert moved > 0.02 * expected.norm()
    assert (found - expected).norm() < 0.08 * moved


def test_the_averages_that_were_kept_come_back_as_they_are(training):
    folder, _, true, _ = training
    for length in LENGTHS:
        torch.testing.assert_close(
            flat(reconstruct(folder, length)), flat(true.state_dict(), length), rtol=0, atol=1e-5
        )


def test_an_earlier_end_needs_no_later_snapshot(training):
    folder, _, _, middle = training
    expected = flat(middle, 0.15)
    found = flat(reconstruct(folder, 0.15, STEPS // 2))
    assert (found - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.25])
def test_exponent_gives_a_profile_of_that_relative_standard_deviation(length):
    p = profile(exponent(length), 1.0)
    mean = quad(lambda t: t * p(t), 0, 1, points=[0.9])[0]
    variance = quad(lambda t: (t - mean) ** 2 * p(t), 0, 1, points=[0.9])[0]
    assert variance**0.5 == pytest.approx(length, rel=1e-5)


def test_updates_weigh_the_steps_by_the_profile():
    gamma, weights = exponent(0.1), np.zeros(500)
    for step in range(1, 501):
        weights *= decay(step, gamma)
        weights[step - 1] += 1 - decay(step, gamma)
    t = np.arange(1, 501)
    expected = (t / 500) ** (gamma + 1) - ((t - 1) / 500) ** (gamma + 1)  # of each unit of time
    np.testing.assert_allclose(weights, expected, atol=1e-12)


@pytest.mark.parametrize(("a", "b"), [((300, 4.0), (500, 9.0)), ((500, 4.0), (300, 9.0))])
def test_overlap_is_the_integral_of_both_profiles(a, b):
    def product(t):
        return profile(a[1], a[0])(t) * profile(b[1], b[0])(t)

    expected = quad(product, 0, min(a[0], b[0]))[0]
    assert overlap(*a, *b) == pytest.approx(expected, rel=1e-8)


def test_coefficients_sum_to_one(training):
    kept = snapshots(training[0])
    assert coefficients(kept, 0.15, STEPS).sum() == pytest.approx(1, abs=0.01)


def test_state_survives_a_checkpoint():
    model = nn.Linear(3, 2)
    ema = PowerEMA(model)
    ema.update(1)
    saved = {k: v.clone() for k, v in ema.state_dict().items()}
    with torch.no_grad():
        model.weight.add_(1)
    ema.update(2)
    assert not torch.equal(flat(ema.state_dict()), flat(saved))
    ema.load_state_dict(saved)
    assert torch.equal(flat(ema.state_dict()), flat(saved))


def test_an_abandoned_attempt_is_forgotten(tmp_path):
    weights = nn.Linear(2, 2, bias=False)
    for value, every, end in ((1.0, 10, 40), (100.0, 15, 30)):
        nn.init.constant_(weights.weight, value)
        forget_after(0, tmp_path)
        ema = PowerEMA(weights)
        for step in range(1, end + 1):
            ema.update(step)
            if step % every == 0:
                ema.snapshot(tmp_path, step)
    assert {s.step for s in snapshots(tmp_path)} == {15, 30}
    forget_after(15, tmp_path)
    assert {s.step for s in snapshots(tmp_path)} == {15}
    average = reconstruct(tmp_path, 0.1)["weight"]
    torch.testing.assert_close(average, torch.full((2, 2), 100.0), rtol=1e-5, atol=0)


def test_bad_requests_end_in_a_sentence(training, tmp_path):
    with pytest.raises(UserError, match="length"):
        exponent(0.4)
    with pytest.raises(UserError, match="no EMA snapshots"):
        reconstruct(tmp_path, 0.1)
    with pytest.raises(UserError, match="steps 30 to 600"):
        reconstruct(training[0], 0.1, 20_000)
