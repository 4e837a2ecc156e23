"""Scores against gradients of known densities; SDEs against Song et al. 2021 and their own law."""

import pytest
import torch
from exact import log_density, marginal, spd

from ldm.diffusion.exact import gaussian, mixture
from ldm.diffusion.schedules import SCHEDULES, VE, VP, SubVP
from ldm.diffusion.score import reverse_drift, score, sde, tweedie

MEAN = torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64)
COVARIANCE = spd(2.0, 0.5, 0.05)
TIMES = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64)


def scalar(number):
    return torch.tensor(number, dtype=torch.float64)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["linear", "flow", "ve", "sub_vp"])
def test_score_of_a_gaussian_is_its_gradient(name, t):
    level = SCHEDULES[name]().level(scalar(t))
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.requires_grad_()
    estimate = gaussian(MEAN, COVARIANCE)(x, level)
    density = log_density(x, *marginal(MEAN, COVARIANCE, level))
    (gradient,) = torch.autograd.grad(density.sum(), x)
    torch.testing.assert_close(score(estimate, level), gradient)


@pytest.mark.parametrize("variance", [0.0, 0.02])
def test_score_of_a_mixture_is_its_gradient(variance):
    points = torch.tensor([[-1.0, 0.0], [0.5, 2.0], [1.0, -1.0]], dtype=torch.float64)
    level = SCHEDULES["flow"]().level(scalar(0.4))
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.requires_grad_()
    blur = level.alpha**2 * variance + level.sigma**2
    distances = (x[:, None] - level.alpha * points).square().sum(-1)
    (gradient,) = torch.autograd.grad((-distances / (2 * blur)).logsumexp(1).sum(), x)
    estimate = mixture(points, variance)(x, level)
    torch.testing.assert_close(score(estimate, level), gradient)
    recomposed = level.alpha * estimate.x0 + level.sigma * estimate.eps
    torch.testing.assert_close(recomposed, x)


def test_tweedie_inverts_the_score():
    level = SCHEDULES["linear"]().level(scalar(0.4))
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    estimate = gaussian(MEAN, COVARIANCE)(x, level)
    again = tweedie(x, score(estimate, level), level)
    torch.testing.assert_close(again.x0, estimate.x0)
    torch.testing.assert_close(again.eps, estimate.eps)


# The SDEs of Song et al. 2021, from their marginals alone


def test_vp_is_its_sde():
    """f = -½β, g² = β (eq. 11)."""
    f, g = sde(VP(), TIMES)
    beta = 0.1 + 19.9 * TIMES
    torch.testing.assert_close(f, -beta / 2)
    torch.testing.assert_close(g**2, beta)


def test_ve_is_its_sde():
    """f = 0, g² = dσ²/dt (eq. 9)."""
    f, g = sde(VE(0.01, 50.0), TIMES)
    torch.testing.assert_close(f, torch.zeros(4).double())
    sigma2 = 0.01**2 * torch.tensor(5000.0).double() ** (2 * TIMES)
    torch.testing.assert_close(g**2, sigma2 * 2 * torch.tensor(5000.0).double().log())


def test_sub_vp_is_its_sde():
    """f = -½β, g² = β·(1 - exp(-2∫β)) (eq. 12)."""
    f, g = sde(SubVP(), TIMES)
    beta, integral = 0.1 + 19.9 * TIMES, 0.1 * TIMES + 19.9 * TIMES**2 / 2
    torch.testing.assert_close(f, -beta / 2)
    torch.testing.assert_close(g**2, -beta * (-2 * integral).expm1())


def test_a_table_of_1000_steps_is_nearly_the_vp_sde():
    """DDPM's β are 1/1000 of Song's β(t), which moves by 0.02 a step; -log(1 - β) is 1 % more."""
    between = TIMES + 0.0005
    f, g = sde(SCHEDULES["linear"](), between)
    beta = 0.1 + 19.9 * between
    torch.testing.assert_close(-2 * f, beta, rtol=0.01, atol=0.02)
    torch.testing.assert_close(g**2, beta, rtol=0.01, atol=0.02)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["continuous_cosine", "flow", "ve", "vp", "sub_vp", "learned"])
def test_every_reverse_process_has_the_forward_marginals(name, eta):
    """Lyapunov: dC/dt = AC + CAᵀ - η²g² holds for the law's own C, and the mean moves as αμ.

    A is the drift's matrix; time runs down, so noise counts negative. η = 0 is the flow.
    """
    schedule = SCHEDULES[name]()
    denoise = gaussian(MEAN, COVARIANCE)
    basis = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()

    def law(t):
        return marginal(MEAN, COVARIANCE, schedule.level(t))

    for t in TIMES:
        level = schedule.level(t)
        drifts = reverse_drift(basis, denoise(basis, level), schedule, level, eta)
        offset, matrix = drifts[0], (drifts[1:] - drifts[0]).T
        (mean, covariance), (d_mean, d_covariance) = torch.func.jvp(law, (t,), (scalar(1.0),))
        torch.testing.assert_close(matrix @ mean + offset, d_mean)
        spread = eta**2 * sde(schedule, t)[1] ** 2 * torch.eye(3).double()
        torch.testing.assert_close(
            matrix @ covariance + covariance @ matrix.T - spread, d_covariance
        )


def test_exact_denoisers_take_a_level_for_each_example():
    """Levels of shape (B,) give what each example's own level gives."""
    levels = SCHEDULES["flow"]().level(torch.tensor([0.2, 0.8]).double())
    x = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for denoise in (gaussian(MEAN, COVARIANCE), mixture(points), mixture(points, 0.1)):
        together = denoise(x, levels)
        for i in range(2):
            alone = denoise(x[i : i + 1], type(levels)(*(c[i] for c in levels)))
            torch.testing.assert_close(together.x0[i : i + 1], alone.x0)
            torch.testing.assert_close(together.eps[i : i + 1], alone.eps)
