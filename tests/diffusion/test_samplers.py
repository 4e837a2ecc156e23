"""What every sampler promises, and how they are each other's special cases."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.diffusion.denoise import denoiser, rederived
from ldm.diffusion.grids import GRIDS
from ldm.diffusion.plane import FLOW, Estimate, V, noised, posterior
from ldm.diffusion.samplers import SAMPLERS, spread
from ldm.diffusion.schedules import SCHEDULES, VE, Flow

SCHEDULE = SCHEDULES["scaled_linear"]()
DENOISE = denoiser(lambda x, level: (x + float(level.t)).sin(), SCHEDULE, V)
LEVELS = GRIDS["trailing"](SCHEDULE, 8)
GENERATOR = torch.Generator().manual_seed(0)
X, *Z = torch.randn(60, 2, 3, 4, 4, generator=GENERATOR, dtype=torch.float64)
STOCHASTIC = {name for name, sampler in SAMPLERS.items() if sampler.noise}
FEW = {"langevin": {"corrections": 2}}


def end(name, denoise=DENOISE, x=X, levels=LEVELS, z=Z, **options):
    *_, (x, _, _) = SAMPLERS[name](
        denoise, x, levels, noise=lambda i: z[i], **options, **FEW.get(name, {})
    )
    return x


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_yields_after_each_step_and_asks_for_nothing_ahead(name):
    calls = []

    def watch(x, level):
        calls.append(float(level.t))
        return DENOISE(x, level)

    states = SAMPLERS[name](watch, X, LEVELS, noise=lambda i: Z[i], **FEW.get(name, {}))
    first = next(states)
    seen = len(calls)
    told = DENOISE(X, next(level for level in LEVELS if level.t == calls[0]))
    assert torch.equal(first.estimate.x0, told.x0) and torch.equal(first.estimate.eps, told.eps)
    assert seen <= 3
    rest = list(states)
    assert [state.level for state in rest] == LEVELS[2:]
    assert calls == sorted(calls, reverse=True)
    asked = SAMPLERS[name].asked(LEVELS, **FEW.get(name, {}))
    assert calls == [float(level.t) for level in asked]


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_depends_on_its_own_noise_alone(name):
    """The same in a batch of one as in a batch of two."""
    together = end(name)
    alone = end(name, x=X[1:], z=[z[1:] for z in Z])
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_input_is_left_as_it_was(name):
    before = X.clone()
    end(name)
    assert torch.equal(X, before)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - STOCHASTIC))
def test_a_deterministic_sampler_needs_no_noise(name):
    *_, (x, _, _) = SAMPLERS[name](DENOISE, X, LEVELS)
    assert torch.equal(x, end(name))


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_a_stochastic_sampler_without_noise_says_so(name):
    with pytest.raises(ValueError, match="pass noise="):
        list(SAMPLERS[name](DENOISE, X, LEVELS))


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"langevin", "predictor_corrector"}))
@settings(max_examples=10, deadline=None)
@given(t=st.floats(0.01, 1))
def test_a_step_from_a_level_to_itself_changes_nothing(name, t):
    """Where x is what the denoiser believes; consistency sampling alone draws its noise anew."""
    level = SCHEDULE.level(torch.tensor(t, dtype=torch.float64))
    ((x, _, _),) = SAMPLERS[name](DENOISE, X, [level, level], noise=lambda i: Z[i])
    if name == "consistency":
        x0 = DENOISE(X, level).x0
        torch.testing.assert_close(x, noised(x0, Z[0], level))
    else:
        torch.testing.assert_close(x, X, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - STOCHASTIC))
@pytest.mark.parametrize("schedule", [SCHEDULE, Flow(), VE()], ids=["vp", "flow", "ve"])
def test_with_a_fixed_answer_every_solver_is_exact(name, schedule):
    """Where x̂0 and ε̂ are constant the path is known, and any order follows it."""
    x0, eps = Z[0], Z[1]
    levels = GRIDS["trailing"](schedule, 5)[:-1]

    def knows(x, level):
        return Estimate(x0, eps)

    *_, (x, _, _) = SAMPLERS[name](knows, noised(x0, eps, levels[0]), levels)
    torch.testing.assert_close(x, noised(x0, eps, levels[-1]))


def test_ddim_with_eta_1_is_ddpm_with_the_small_variance():
    torch.testing.assert_close(end("ddim", eta=1.0), end("ddpm"))
    torch.testing.assert_close(end("euler_ancestral"), end("ddpm"))


def test_euler_is_ddim():
    assert torch.equal(end("euler"), end("ddim"))


def test_euler_on_a_flow_is_x_plus_dt_v():
    def velocity(x, level):
        return x.sin()

    levels = GRIDS["trailing"](Flow(), 8)
    x = X
    for _ in range(8):
        x = x - velocity(x, None) / 8
    found = end("euler", denoise=denoiser(velocity, Flow(), FLOW), levels=levels)
    torch.testing.assert_close(found, x)


def test_euler_on_ve_is_karras_algorithm_1():
    def denoise(x, level):
        return Estimate(x0 := x.sin(), rederived(x, x0, level))

    levels, x = GRIDS["edm"](VE(), 8), 80 * X
    expected = x
    for a, b in pairwise(levels):
        d = (expected - expected.sin()) / a.sigma
        ahead = expected + (b.sigma - a.sigma) * d
        if b.sigma > 0:
            ahead = expected + (b.sigma - a.sigma) * (d + (ahead - ahead.sin()) / b.sigma) / 2
        expected = ahead
    torch.testing.assert_close(end("heun", denoise=denoise, x=x, levels=levels), expected)


def test_one_step_of_any_first_order_sampler_is_the_denoiser():
    levels = [LEVELS[0], LEVELS[-1]]
    for name in set(SAMPLERS) - {"langevin", "predictor_corrector"}:
        torch.testing.assert_close(end(name, levels=levels), DENOISE(X, LEVELS[0]).x0)


def test_stopping_early_leaves_the_noise_of_the_last_level():
    states = list(SAMPLERS["dpmpp_2m"](DENOISE, X, LEVELS))
    assert torch.equal(end("dpmpp_2m", levels=LEVELS[:4], lower_order_final=False), states[2].x)


def test_ddpms_variances_are_ordered():
    a, b = LEVELS[3], LEVELS[4]
    small, large = posterior(a, b)
    estimate = DENOISE(X, a)
    stds = [
        spread(estimate._replace(var=torch.full_like(X, v)), small, large, "learned").mean()
        for v in (-1.0, 0.0, 1.0)
    ]
    torch.testing.assert_close(stds[0], spread(estimate, small, large, "small").squeeze())
    torch.testing.assert_close(stds[2], spread(estimate, small, large, "large").squeeze())
    torch.testing.assert_close(stds[1], (stds[0] * stds[2]).sqrt())


def test_a_learned_variance_needs_a_network_that_learned_it():
    with pytest.raises(ValueError, match="twice the channels"):
        end("ddpm", variance="learned")


@pytest.mark.parametrize("name", SAMPLERS)
def test_float32_samples_are_near_float64s(name):
    z = [z.float() for z in Z]
    found = end(name, x=X.float(), z=z)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), end(name), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - STOCHASTIC))
def test_gradients_flow_through_a_sampler(name):
    """As reward tuning and DPS need: from the sample back to the noise."""
    x = X.clone().requires_grad_()
    *_, (sample, _, _) = SAMPLERS[name](DENOISE, x, LEVELS[-4:])
    (gradient,) = torch.autograd.grad(sample.sum(), x)
    assert gradient.abs().min() > 0
