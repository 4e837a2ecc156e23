"""Denoisers, and what wraps them."""

import pytest
import torch

from ldm.diffusion.contract import Contract
from ldm.diffusion.denoise import (
    boundary,
    check,
    clamp,
    denoiser,
    inpaint,
    rederived,
    threshold,
)
from ldm.diffusion.grids import GRIDS
from ldm.diffusion.plane import (
    EPS,
    PREDICTIONS,
    X0,
    Estimate,
    V,
    clean,
    edm,
    fit,
    noised,
    resolve,
    target,
)
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.schedules import SCHEDULES, Flow

SCHEDULE = SCHEDULES["scaled_linear"]()
LABEL = Contract.of(SCHEDULE, V).label
LEVEL = SCHEDULE.level(torch.tensor(0.6, dtype=torch.float64))
X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def wide(x, level):
    """A denoiser whose x̂0 leaves [-1, 1]."""
    x0 = 2 * x.tanh()
    return Estimate(x0, rederived(x, x0, level) + 0.1)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_denoiser_resolves_what_the_network_says_of_its_scaled_input(name):
    prediction, seen = PREDICTIONS[name], []

    def network(x, level):
        seen.append(x)
        return x.sin()

    found = denoiser(network, SCHEDULE, prediction)(X, LEVEL)
    torch.testing.assert_close(seen[0], X * prediction.c_in(LEVEL))
    expected = resolve(X, seen[0].sin(), LEVEL, prediction)
    torch.testing.assert_close(found.x0, expected.x0)
    torch.testing.assert_close(found.eps, expected.eps)
    assert found.var is None


def test_the_second_half_of_the_channels_is_the_learned_variance():
    found = denoiser(lambda x, level: torch.cat([x, 2 * x], 1), SCHEDULE, V)(X, LEVEL)
    torch.testing.assert_close(found.var, 2 * X)
    torch.testing.assert_close(found.x0, denoiser(lambda x, level: x, SCHEDULE, V)(X, LEVEL).x0)


def test_levels_of_a_batch_are_each_ones_own():
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    together = denoiser(lambda x, level: x.sin(), SCHEDULE, EPS)(X, SCHEDULE.level(t))
    for i in range(2):
        alone = denoiser(lambda x, level: x.sin(), SCHEDULE, EPS)(
            X[i : i + 1], SCHEDULE.level(t[i])
        )
        torch.testing.assert_close(together.x0[i : i + 1], alone.x0)


def test_a_half_precision_network_leaves_x_in_full_precision():
    found = denoiser(lambda x, level: x.half(), SCHEDULE, V)(X.float(), LEVEL)
    assert found.x0.dtype == found.eps.dtype == torch.float32


@pytest.mark.parametrize("schedule", [Flow(), SCHEDULES["linear"](zero_snr=True)])
def test_epsilon_with_zero_terminal_snr_is_refused(schedule):
    with pytest.raises(ValueError, match="predicts ε says nothing of x0 where α = 0"):
        denoiser(lambda x, level: x, schedule, EPS)
    for prediction in (X0, V, edm()):
        check(schedule, prediction)


def test_clamp_keeps_the_noise_as_ddim_does_or_rederives_it_as_ddpm_does():
    before = wide(X, LEVEL)
    ddim = clamp(wide, 0.5, rederive=False)(X, LEVEL)
    ddpm = clamp(wide, 0.5)(X, LEVEL)
    for found in (ddim, ddpm):
        torch.testing.assert_close(found.x0, before.x0.clamp(-0.5, 0.5))
    assert torch.equal(ddim.eps, before.eps)
    torch.testing.assert_close(noised(ddpm.x0, ddpm.eps, LEVEL), X)


def test_threshold_clips_at_its_own_quantile_and_scales_to_one():
    before = wide(X, LEVEL).x0
    found = threshold(wide, 0.9, largest=10.0)(X, LEVEL).x0
    for i in range(2):
        s = before[i].abs().quantile(0.9)
        assert s > 1
        torch.testing.assert_close(found[i], before[i].clamp(-s, s) / s)


def test_threshold_leaves_what_is_within_one():
    def narrow(x, level):
        return Estimate(0.9 * x.tanh(), x)

    assert torch.equal(threshold(narrow, 0.995, 3.0)(X, LEVEL).x0, 0.9 * X.tanh())


def test_boundary_returns_x_at_label_zero_and_the_denoiser_at_large_labels():
    first = SCHEDULE.level(torch.tensor(1e-3, dtype=torch.float64))
    torch.testing.assert_close(boundary(wide, LABEL)(X, first).x0, X)
    far = boundary(wide, LABEL)(X, LEVEL)
    torch.testing.assert_close(far.x0, wide(X, LEVEL).x0, rtol=0, atol=1e-5)
    torch.testing.assert_close(noised(far.x0, far.eps, LEVEL), X)


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m", "unipc", "euler_ancestral"])
def test_inpainting_keeps_what_is_known_and_paints_the_rest(sampler):
    known, noise, z = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., :2] = 1
    *_, (x, _, _) = SAMPLERS[sampler](
        inpaint(wide, known, noise, mask), z, GRIDS["trailing"](SCHEDULE, 10), noise=lambda i: z
    )
    torch.testing.assert_close(x[..., 2:], known[..., 2:])
    assert (x[..., :2] - known[..., :2]).abs().mean() > 0.1


def test_inpainting_shows_the_denoiser_the_known_part_at_its_level():
    known, noise = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    seen = []

    def watch(x, level):
        seen.append(x)
        return wide(x, level)

    inpaint(watch, known, noise, torch.zeros(1).double())(X, LEVEL)
    torch.testing.assert_close(seen[0], noised(known, noise, LEVEL))


def test_wrappers_pass_the_variance_on():
    def learned(x, level):
        return wide(x, level)._replace(var=x)

    for wrapped in (clamp(learned), threshold(learned), boundary(learned, LABEL)):
        assert torch.equal(wrapped(X, LEVEL).var, X)


def test_the_clean_level_needs_no_denoiser():
    assert clean().sigma == 0
    assert fit(clean().alpha, X) == 1
    torch.testing.assert_close(target(X, X, clean(), V), X)
