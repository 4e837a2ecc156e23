import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.integrate import quad
from torch import nn

from ldm.core.errors import UserError
from ldm.training.post_hoc_ema import (
    LENGTHS,
    PowerEMA,
    Snapshot,
    _name,
    coefficients,
    decay,
    exponent,
    forget_after,
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


def weights_of(length, end, steps):
    """What the average of `length` at `end` gives each of the weights after 1, 2 ... steps."""
    return np.diff(np.minimum(np.arange(steps + 1) / end, 1) ** (exponent(length) + 1))


def kept_at(ends):
    return [Snapshot(end, length, Path()) for end in ends for length in LENGTHS]


def walks(steps):
    """Weights (32, T) that drift as they might; each comes about as far as 1."""
    t, random = np.arange(1, steps + 1) / steps, np.random.default_rng(0)
    sines = [np.sin(k * np.pi * t + phase) for k in (1, 2, 4) for phase in range(3)]
    steady = [t, np.sqrt(t), t**3, np.ones_like(t), *(1 - np.exp(-t / x) for x in (0.01, 0.1, 0.5))]
    noise = random.normal(size=(16, steps)).cumsum(1) / steps**0.5
    return np.array([*steady, *sines, *noise, *(noise + 2 * t)])


@pytest.mark.parametrize("steps", [40, 600, 6000, 9001])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 20])
def test_an_average_of_drifting_weights_is_right_to_one_percent_or_refused(steps, count):
    """The true averages of weights that drift in 48 ways, early and late, few snapshots or many."""
    drifting, had = walks(steps), set()
    ends = sorted({max(1, round(steps * k / count)) for k in range(1, count + 1)})
    for length in (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.288):
        for kept in (kept_at(ends), kept_at(ends[: (len(ends) + 1) // 2])):
            end = kept[-1].step
            try:
                found = coefficients(kept, length, end)
            except UserError:
                continue
            assert found.sum() == pytest.approx(1, abs=1e-9)
            had.add(length)
            profile = found @ np.array([weights_of(s.length, s.step, steps) for s in kept])
            expected = drifting @ weights_of(length, end, steps)
            error = np.abs(drifting @ profile - expected)
            # 1 % of how far they have come by then
            scale = np.abs(drifting[:, :end]).max(1)
            assert (error <= 0.01 * scale).all(), (length, len(kept), (error / scale).max())
    assert {0.05, 0.1} <= had
    assert count < 8 or {0.15, 0.2} <= had
    assert count < 20 or {0.02, 0.25} <= had


def test_weights_that_stand_still_are_their_own_average(tmp_path):
    module = nn.Linear(4, 3)
    ema = PowerEMA(module)
    for step in range(1, 61):
        ema.update(step)
        if step % 8 == 0 or step == 60:
            ema.snapshot(tmp_path, step)
    for length in (0.03, 0.08, 0.15, 0.2):
        torch.testing.assert_close(
            reconstruct(tmp_path, length), dict(module.state_dict()), rtol=1e-6, atol=1e-7
        )


def test_a_length_that_cannot_be_had_is_refused_with_those_that_can():
    with pytest.raises(UserError, match=r"off by 22.6% .* can be had: 0.05, 0.1; a smaller"):
        coefficients(kept_at([1200]), 0.25, 1200)
    with pytest.raises(UserError, match=r"after step 700 .* up to step 600: .* most; a smaller"):
        coefficients(kept_at([600]), 0.1, 700)


def test_the_first_weights_never_count(tmp_path):
    """Step 0 is the initialisation: the average after one step is what that step made."""
    module = nn.Linear(2, 2, bias=False)
    nn.init.constant_(module.weight, 1e6)
    ema = PowerEMA(module)
    nn.init.constant_(module.weight, 1.0)
    for step in (1, 2, 3):
        ema.update(step)
        ema.snapshot(tmp_path, step)
    for length in (0.05, 0.1, 0.2):
        found = reconstruct(tmp_path, length)["weight"]
        torch.testing.assert_close(found, torch.ones(2, 2), rtol=1e-6, atol=0)


@pytest.fixture
def saved(tmp_path):
    """Twenty snapshots of drifting weights, without and with the last of their two lengths."""
    module = nn.Linear(8, 8)
    ema = PowerEMA(module)
    for step in range(1, 81):
        with torch.no_grad():
            module.weight.add_(0.01)
        ema.update(step)
        if step % 8 == 0:
            ema.snapshot(tmp_path, step)
    return tmp_path


def flip(path, place, bit=6):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_in_a_snapshot_is_noticed(saved):
    sound = reconstruct(saved, 0.15)
    path = saved / _name(40, 0.1)
    whole = path.read_bytes()
    about = whole.index(b"sha256")
    places = [3, *range(8, about + 80, 9), *range(about + 80, len(whole), 37)]
    for place in places:
        flip(path, place)
        with pytest.warns(UserWarning, match="step_0000040_length_0.100.* left out"):
            found = reconstruct(saved, 0.15)
        path.write_bytes(whole)
        for name, value in found.items():  # the others are enough, and differ by little
            torch.testing.assert_close(value, sound[name], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("content", [b"", b"half", None])
def test_a_snapshot_of_the_last_step_that_is_cut_is_not_passed_over(saved, content):
    for length in LENGTHS:
        path = saved / _name(80, length)
        path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(UserError, match=r"step_0000080.* is damaged: .* remove those of step 80"),
    ):
        reconstruct(saved, 0.1)


def test_snapshots_without_a_checksum_are_read_and_their_numbers_looked_at(saved):
    expected = reconstruct(saved, 0.15)
    for path in saved.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            about = {key: file.metadata()[key] for key in ("step", "length")}
        save_file(load_file(path), path, about)
    assert all(torch.equal(v, expected[k]) for k, v in reconstruct(saved, 0.15).items())
    path = saved / _name(40, 0.05)
    save_file({**load_file(path), "bias": torch.full((8,), torch.inf)}, path, about)
    with pytest.warns(UserWarning, match="not finite"):
        snapshots(saved)


def test_copies_and_strangers_beside_the_snapshots_are_left_alone(saved):
    names = ("step_best_length_long.safetensors", "step_0000040_length_0.100 copy.safetensors",
             "step_80_length_0.1.safetensors", "notes_length_.safetensors")  # fmt: skip
    for name in names:
        shutil.copy(saved / _name(80, 0.1), saved / name)
    assert len(snapshots(saved)) == 20
    forget_after(0, saved)
    assert {path.name for path in saved.iterdir()} == set(names)
    (saved / _name(8, 0.1)).write_bytes((saved / names[0]).read_bytes())
    with pytest.raises(UserError, match="says that it is of step 80"), pytest.warns(UserWarning):
        snapshots(saved)


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
