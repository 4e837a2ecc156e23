"""The bound and the flow's likelihood against densities known in closed form."""

import math

import pytest
import torch
from exact import draw, flowed, law, log_density, spd

from ldm.diffusion.denoise import denoiser
from ldm.diffusion.exact import as_network, gaussian, mixture
from ldm.diffusion.grids import GRIDS
from ldm.diffusion.likelihood import bits_per_dim, elbo, ode_log_prob
from ldm.diffusion.plane import PREDICTIONS, Estimate, posterior
from ldm.diffusion.samplers import ddpm
from ldm.diffusion.schedules import SCHEDULES, Cosine, Flow, cosine, linear

D = 4
MEAN = torch.tensor([0.5, -1.0, 0.3, 0.0], dtype=torch.float64)
COVARIANCE = spd(2.0, 1.0, 0.3, 0.05)
EXACT = gaussian(MEAN, COVARIANCE)
X0 = draw(MEAN, COVARIANCE, 8)
UNITS = D**0.5 * torch.eye(D, dtype=torch.float64)  # probes that give the exact trace


def probes(batch):
    return UNITS[:, None].expand(D, batch, D)


def top_of(schedule):
    return schedule.level(torch.ones((), dtype=torch.float64))


# The bound. Where the denoiser is a Gaussian's its terms are quadratic in x0 and ε, and a design of
# the right moments gives their expectations exactly: no tolerance below is statistical.

DESIGN = torch.cat([UNITS, -UNITS])  # (2D, D), mean 0, covariance 1


def expected_elbo(x0, schedule, n, variance="large"):
    """E over noise of the total, in bits per dimension, for each x0; and the terms."""
    rows = x0.repeat_interleave(2 * D, 0)
    noise = DESIGN.repeat(len(x0), 1)
    bound = elbo(EXACT, rows, GRIDS["trailing"](schedule, n), lambda i: noise, variance)
    return bound.total.unflatten(0, (-1, 2 * D)).mean(1), bound


def model(levels, variance):
    """The law of x0 that DDPM makes of N(0, 1): what the ELBO bounds, for each x0."""

    def sample(z, noise):
        *_, (x, _, _) = ddpm(EXACT, z, levels[:-1], noise, variance)
        last = levels[-2]  # DDPM's L_0 gives x0 the variance β around x̂0
        return EXACT(x, last).x0 + posterior(last, levels[-1])[1].sqrt() * noise(len(levels) - 2)

    return law(sample, D, len(levels) - 1)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("n", [5, 50, 250])
@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_elbo_is_under_the_log_likelihood_of_each_example(name, n, variance):
    schedule = SCHEDULES[name]()
    exact = log_density(X0, *model(GRIDS["trailing"](schedule, n), variance))
    bound, _ = expected_elbo(X0, schedule, n, variance)
    assert (-bound < bits_per_dim(exact, X0)).all()


def test_elbo_is_under_the_entropy_and_its_gap_closes_as_one_over_the_steps():
    """Averaged over the data. With the large variance, and a schedule that ends in noise."""
    factor = torch.linalg.cholesky(COVARIANCE)
    data = MEAN + DESIGN @ factor.T  # the data's own mean and covariance, exactly
    entropy = -bits_per_dim(log_density(data, MEAN, COVARIANCE), data).mean()
    gaps = torch.stack(
        [expected_elbo(data, linear(zero_snr=True), n)[0].mean() - entropy for n in (125, 250, 500)]
    )
    assert (gaps > 0).all()
    ratios = gaps[:-1] / gaps[1:]
    torch.testing.assert_close(ratios, torch.full_like(ratios, 2.0), rtol=0.05, atol=0)
    assert gaps[-1] < 0.006


def test_prior_term_is_the_divergence_of_what_the_schedule_leaves():
    """L_T = KL(q(x_T | x0) ‖ N(0, 1)), nothing where the schedule ends in noise."""
    top = top_of(linear(steps=200))
    _, bound = expected_elbo(X0, linear(steps=200), 200)
    left = torch.distributions.Normal(top.alpha * X0, top.sigma)
    unit = torch.distributions.Normal(0.0, torch.ones((), dtype=torch.float64))
    nats = torch.distributions.kl_divergence(left, unit).sum(1)
    torch.testing.assert_close(bound.prior[:: 2 * D], bits_per_dim(nats, X0))
    _, ends_in_noise = expected_elbo(X0, linear(zero_snr=True), 10)
    torch.testing.assert_close(ends_in_noise.prior, torch.zeros(len(X0) * 2 * D).double())


def test_elbo_has_a_term_for_each_step_and_a_wrong_denoiser_pays_in_each():
    """L_vlb per noise level: shape (n - 1, B), all larger where x̂0 is off."""

    def off(x, level):
        estimate = EXACT(x, level)
        return Estimate(estimate.x0 + 0.1, estimate.eps)

    levels = GRIDS["trailing"](cosine(), 20)
    noise = torch.zeros_like(X0)
    wrong, right = (elbo(f, noise + MEAN, levels, lambda i: noise) for f in (off, EXACT))
    assert right.steps.shape == (19, 8)
    assert (wrong.steps > right.steps).all()
    assert (wrong.reconstruction > right.reconstruction).all()


def test_learned_variance_is_between_small_and_large():
    levels = GRIDS["trailing"](cosine(), 20)

    def with_var(var):
        return lambda x, level: EXACT(x, level)._replace(var=torch.full_like(x, var))

    def bound(denoise, variance):
        return elbo(denoise, X0, levels, lambda i: torch.zeros_like(X0), variance).steps

    torch.testing.assert_close(bound(with_var(-1.0), "learned"), bound(EXACT, "small"))
    torch.testing.assert_close(bound(with_var(1.0), "learned"), bound(EXACT, "large"))


def test_pixels_have_probabilities():
    """With bins the reconstruction is -log2 of numbers that sum to 1 over all 256 values."""
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None]

    def denoise(x, level):  # any decoder that does not see the value
        return Estimate(torch.full_like(x, 0.3), x)

    levels = GRIDS["trailing"](linear(), 10)
    bits = elbo(denoise, values, levels, lambda i: torch.zeros_like(values), bins=256)
    assert float((2.0**-bits.reconstruction).sum()) == pytest.approx(1, abs=1e-9)


# The probability flow


@pytest.mark.parametrize(
    "schedule",
    [Flow(), Flow(shift=3.0), Cosine(1.0, 0.0), linear(zero_snr=True)],
    ids=["flow", "shifted", "cosine", "zero-snr"],
)
def test_ode_log_prob_is_the_exact_density_where_the_path_ends_in_noise(schedule):
    with torch.no_grad():
        found = ode_log_prob(EXACT, schedule, X0, probes(8)).log_prob
    torch.testing.assert_close(found, log_density(X0, MEAN, COVARIANCE), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine", "ve", "vp", "sub_vp"])
def test_ode_log_prob_is_the_density_of_the_model_where_signal_is_left(name):
    """A path that does not end in noise makes a slightly other model: where N(0, α² + σ²) flows."""
    schedule = SCHEDULES[name]()
    top = top_of(schedule)
    model = flowed(MEAN, COVARIANCE, top, top.alpha**2 + top.sigma**2)
    with torch.no_grad():
        found = ode_log_prob(EXACT, schedule, X0, probes(8)).log_prob
    torch.testing.assert_close(found, log_density(X0, *model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v", "flow", "edm"])
def test_ode_log_prob_is_finite_and_exact_for_every_prediction(prediction):
    """ε says nothing where α = 0, nor x0 where σ = 0: the flow stands still at both ends."""
    schedule = cosine() if prediction == "epsilon" else Flow()
    prediction = PREDICTIONS[prediction]
    denoise = denoiser(as_network(EXACT, prediction), schedule, prediction)
    with torch.no_grad():
        found = ode_log_prob(denoise, schedule, X0, probes(8)).log_prob
        expected = ode_log_prob(EXACT, schedule, X0, probes(8)).log_prob
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_ode_log_prob_of_a_mixture():
    """No Gaussian, so the flow is not linear: two modes, against their density."""
    points, variance = torch.tensor([[-1.0], [0.8]], dtype=torch.float64), 0.04
    x = torch.linspace(-1.5, 1.5, 13, dtype=torch.float64)[:, None]
    with torch.no_grad():
        found = ode_log_prob(
            mixture(points, variance), Flow(), x, torch.ones(1, 13, 1).double(), steps=200
        )
    distance = (x - points.T).square() / variance
    exact = (-distance / 2).logsumexp(1) - math.log(2) - 0.5 * math.log(2 * math.pi * variance)
    torch.testing.assert_close(found.log_prob, exact, atol=1e-5, rtol=0)


def test_ode_log_prob_returns_the_noise_that_flows_to_x0():
    """By the Gaussian's own flow: whitened coordinates stay as they are, and μ flows to 0."""
    values, vectors = torch.linalg.eigh(COVARIANCE)
    white = (X0 - MEAN) @ vectors / values.sqrt() @ vectors.T
    with torch.no_grad():
        noise = ode_log_prob(EXACT, Flow(), X0, probes(8)).noise
    torch.testing.assert_close(noise, white, atol=1e-5, rtol=0)


def test_hutchinson_estimate_is_within_its_standard_error():
    """Of 200 examples with 8 probes each: unbiased, and off by about one standard error."""
    x = draw(MEAN, COVARIANCE, 200, seed=3)
    signs = torch.randn(8, 200, D, generator=torch.Generator().manual_seed(4)).sign().double()
    with torch.no_grad():
        found = ode_log_prob(EXACT, Flow(), x, signs, steps=30)
        exact = ode_log_prob(EXACT, Flow(), x, probes(200), steps=30)
    z = (found.log_prob - exact.log_prob) / found.standard_error
    assert abs(float(z.mean())) < 4 / 200**0.5 * float(z.std())
    # Student's t with 7 degrees of freedom has |t| < 1.89 in 90 of 100; binomial bounds at 4σ
    assert 0.82 < float((z.abs() < 1.895).double().mean()) < 0.98


def test_gradient_of_the_log_likelihood_is_the_score_of_the_data():
    """It flows through the solver and the trace, to x0 and to the network's parameters."""
    x0 = X0.clone().requires_grad_()
    total = ode_log_prob(EXACT, Flow(), x0, probes(8), steps=40).log_prob.sum()
    (gradient,) = torch.autograd.grad(total, x0)
    exact = -torch.linalg.solve(COVARIANCE, (X0 - MEAN).T).T
    torch.testing.assert_close(gradient, exact, atol=1e-4, rtol=0)

    mean = MEAN.clone().requires_grad_()
    total = ode_log_prob(gaussian(mean, COVARIANCE), Flow(), X0, probes(8), steps=40).log_prob.sum()
    (gradient,) = torch.autograd.grad(total, mean)
    torch.testing.assert_close(gradient, -exact.sum(0), atol=1e-4, rtol=0)


def test_nothing_is_recorded_where_gradients_are_off():
    with torch.no_grad():
        found = ode_log_prob(EXACT, Flow(), X0.clone().requires_grad_(), probes(8), steps=2)
    assert not any(field.requires_grad for field in found)
