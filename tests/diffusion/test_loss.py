"""Time samplers as distributions, weightings in x0-space, and what the loss compares."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ldm.diffusion.contract import known_label
from ldm.diffusion.denoise import denoiser
from ldm.diffusion.exact import as_network, gaussian
from ldm.diffusion.loss import (
    TIME_SAMPLERS,
    WEIGHTINGS,
    below,
    denoising_loss,
    variance_bits,
    vlb,
)
from ldm.diffusion.plane import EPS, PREDICTIONS, X0, V, clean, edm, error_gain, noised, posterior
from ldm.diffusion.schedules import SCHEDULES, VE, Flow, snap

TABLE = SCHEDULES["scaled_linear"]()
U = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000  # a fine, even u
GENERATOR = torch.Generator().manual_seed(0)
X_0, NOISE = torch.randn(2, 6, 3, 4, 4, generator=GENERATOR, dtype=torch.float64)
T = snap(TABLE, torch.tensor([0.0, 0.1, 0.3, 0.5, 0.8, 0.999], dtype=torch.float64))


def wrong(x, level):
    return 0.7 * x.sin()


# Time samplers


def test_uniform_times_visit_each_entry_of_a_table_equally():
    labels = known_label(TABLE, TABLE.level(TIME_SAMPLERS["uniform"](U, TABLE)))
    assert torch.equal(labels.unique(return_counts=True)[1], torch.full((1000,), 20))
    assert torch.equal(TIME_SAMPLERS["uniform"](U, Flow()), U)


def test_lognormal_is_normal_in_log_sigma():
    log_sigma = VE().level(TIME_SAMPLERS["lognormal"](U, VE(), mean=-1.0, std=0.8)).sigma.log()
    assert log_sigma.mean() == pytest.approx(-1.0, abs=1e-3)
    assert log_sigma.std() == pytest.approx(0.8, abs=1e-3)
    share = (log_sigma < -1.0 + 0.8).double().mean()
    assert share == pytest.approx(0.8413, abs=1e-3)  # Φ(1)


def test_lognormal_has_edms_defaults_and_stays_on_a_tables_entries():
    log_sigma = VE().level(TIME_SAMPLERS["lognormal"](U, VE())).sigma.log()
    assert log_sigma.median() == pytest.approx(-1.2, abs=1e-3)
    labels = known_label(TABLE, TABLE.level(TIME_SAMPLERS["lognormal"](U, TABLE)))
    assert torch.equal(labels, labels.round())


def test_logit_normal_is_normal_in_the_logit():
    t = TIME_SAMPLERS["logit_normal"](U, Flow(), mean=0.5, std=1.5)
    assert t.logit().mean() == pytest.approx(0.5, abs=1e-3)
    assert t.logit().std() == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize("name", TIME_SAMPLERS)
@pytest.mark.parametrize("schedule", ["scaled_linear", "flow", "ve", "learned"])
def test_time_samplers_are_quantile_functions(name, schedule):
    """Rising in u (or falling, where small noise is at large u), and within [0, 1] at both ends."""
    u = torch.cat([torch.zeros(1).double(), U[::100], torch.ones(1).double() - 2**-53])
    t = TIME_SAMPLERS[name](u, SCHEDULES[schedule]())
    assert t.min() >= 0
    assert t.max() <= 1
    assert (t.diff() >= 0).all()


# Weightings


def weight(name, prediction, **options):
    """The weight on |F - F̂|² at T, by the loss itself."""
    weighting = WEIGHTINGS[name]
    bound = None if weighting is None else lambda level, s: weighting(level, s, **options)
    plain = denoising_loss(wrong, TABLE, prediction, X_0, NOISE, T)
    return denoising_loss(wrong, TABLE, prediction, X_0, NOISE, T, bound) / plain


SNR = TABLE.level(T).snr


@pytest.mark.parametrize(
    "name, prediction, expected",
    [
        ("simple", V, torch.ones_like(SNR)),
        ("min_snr", EPS, SNR.clamp(max=5) / SNR),  # the three cases of Hang et al.
        ("min_snr", X0, SNR.clamp(max=5)),
        ("min_snr", V, SNR.clamp(max=5) / (SNR + 1)),
        ("p2", EPS, 1 / (1 + SNR)),
        ("debiased", EPS, 1 / SNR.sqrt()),
        ("edm", edm(), torch.ones_like(SNR)),
        ("sigmoid", EPS, (2 - SNR.log()).sigmoid()),
    ],
)
def test_weightings_are_what_their_papers_put_on_their_own_target(name, prediction, expected):
    torch.testing.assert_close(weight(name, prediction), expected)


@pytest.mark.parametrize("name", [n for n, w in WEIGHTINGS.items() if w])
def test_a_weighting_means_the_same_for_every_prediction(name):
    """A network that is wrong by the same x̂0 pays the same whatever it outputs."""
    exact = gaussian(torch.zeros(48).double(), torch.eye(48).double())
    x0, eps = X_0.flatten(1), NOISE.flatten(1)
    losses = [
        denoising_loss(as_network(exact, p), TABLE, p, x0, eps, T, WEIGHTINGS[name])
        for p in PREDICTIONS.values()
    ]
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0])


def test_options_change_a_weighting():
    torch.testing.assert_close(weight("min_snr", X0, gamma=2.0), SNR.clamp(max=2))
    torch.testing.assert_close(weight("p2", EPS, k=2.0, gamma=0.5), (2 + SNR) ** -0.5)
    torch.testing.assert_close(weight("edm", X0, sigma_data=1.0), SNR + 1)
    torch.testing.assert_close(weight("sigmoid", EPS, bias=-1.0), (-1 - SNR.log()).sigmoid())


def test_vlb_is_the_kl_of_the_step_and_ddpms_lambda():
    n = torch.arange(1, 1000)
    a = TABLE.level((n.double() + 1) / 1000)
    small, _ = posterior(a, below(a, TABLE))
    beta, bar = TABLE.betas[n], TABLE.alphas_cumprod[n]
    on_eps = beta**2 / (2 * small * (1 - beta) * (1 - bar))  # DDPM eq. 12
    torch.testing.assert_close(vlb(a, TABLE) / error_gain(a, EPS), on_eps, rtol=1e-9, atol=0)
    first = TABLE.level(torch.tensor([1e-3], dtype=torch.float64))
    torch.testing.assert_close(vlb(first, TABLE), 0.5 / TABLE.betas[:1])  # N(x̂0, β_1)


# The loss


@pytest.mark.parametrize("name", PREDICTIONS)
def test_the_true_answer_has_no_loss(name):
    prediction = PREDICTIONS[name]

    def right(x, level):
        p, q = (c[:, None, None, None] for c in prediction.direction(level))
        return p * X_0 + q * NOISE

    loss = denoising_loss(right, TABLE, prediction, X_0, NOISE, T)
    assert torch.equal(loss, torch.zeros(6).double())


def test_the_network_sees_the_scaled_noised_input_at_its_level():
    seen = []

    def watch(x, level):
        seen.append((x, level))
        return x

    denoising_loss(watch, TABLE, edm(), X_0, NOISE, T)
    x, level = seen[0]
    scale = edm().c_in(TABLE.level(T))[:, None, None, None]
    torch.testing.assert_close(x, scale * noised(X_0, NOISE, TABLE.level(T)))
    assert torch.equal(level.t, T)


def test_the_loss_of_a_half_precision_network_is_in_full_precision():
    loss = denoising_loss(lambda x, _: x.bfloat16(), TABLE, V, X_0.float(), NOISE.float(), T)
    assert loss.dtype == torch.float32


# The learned variance


def test_variance_bits_is_the_kl_of_two_gaussians():
    a = TABLE.level(torch.tensor([0.4], dtype=torch.float64))
    b = below(a, TABLE)
    small, large = posterior(a, b)
    guess, v = X_0[:1] + 0.1, torch.full_like(X_0[:1], 0.3)
    gain = b.alpha * large / a.sigma**2  # of x0 in the posterior mean
    log_var = 0.65 * large.log() + 0.35 * small.log()
    theirs = kl_divergence(
        Normal(gain * X_0[:1], small.sqrt()), Normal(gain * guess, (log_var / 2).exp())
    )
    torch.testing.assert_close(variance_bits(X_0[:1], guess, v, a, b), theirs / math.log(2))


def test_variance_bits_of_the_last_step_is_the_decoders():
    a = TABLE.level(torch.tensor([1e-3], dtype=torch.float64))
    guess = X_0[:1] + 0.01
    expected = -Normal(guess, a.sigma).log_prob(X_0[:1]) / math.log(2)
    found = variance_bits(X_0[:1], guess, torch.zeros_like(guess), a, clean())
    torch.testing.assert_close(found, expected)


def test_the_hybrid_loss_adds_the_bound_and_only_the_variance_learns_from_it():
    """Improved DDPM section 3.1: λ = 0.001 times a sum over T steps, the mean detached."""
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    v = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def both(x, level):
        return torch.cat([scale * x, v.expand_as(x)], 1)

    hybrid = denoising_loss(both, TABLE, EPS, X_0, NOISE, T)
    simple = denoising_loss(lambda x, level: scale * x, TABLE, EPS, X_0, NOISE, T)
    a = TABLE.level(T)
    guess = denoiser(lambda x, level: scale * x, TABLE, EPS)(noised(X_0, NOISE, a), a).x0
    bits = variance_bits(X_0, guess, v, a, below(a, TABLE)).flatten(1).mean(1)
    torch.testing.assert_close(hybrid, simple + 0.001 * 1000 * bits)
    on_scale, on_v = torch.autograd.grad(hybrid.sum(), [scale, v])
    torch.testing.assert_close(on_scale, torch.autograd.grad(simple.sum(), scale)[0])
    assert on_v.abs() > 0


def test_the_best_variance_for_the_true_mean_is_the_small_one():
    a = TABLE.level(torch.tensor([0.4], dtype=torch.float64))
    bits = [
        variance_bits(X_0[:1], X_0[:1], torch.full_like(X_0[:1], v), a, below(a, TABLE)).sum()
        for v in (-1.0, 0.0, 1.0)
    ]
    assert bits[0] < bits[1] < bits[2]
    assert abs(bits[0]) < 1e-12


def test_gradients_reach_the_network_and_not_the_data_or_a_fixed_schedule():
    weight = torch.nn.Parameter(torch.ones(3, 1, 1, dtype=torch.float64))
    for weighting in WEIGHTINGS.values():
        loss = denoising_loss(lambda x, level: weight * x, TABLE, V, X_0, NOISE, T, weighting)
        (gradient,) = torch.autograd.grad(loss.sum(), weight)
        assert gradient.abs().min() > 0
    assert not X_0.requires_grad
    assert not TABLE.betas.requires_grad
