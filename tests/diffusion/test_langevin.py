"""Langevin kernels by their stationary law, and the samplers made of them by their samples' law."""

import pytest
import torch
from exact import law, marginal, spd

from ldm.diffusion.exact import gaussian, mixture
from ldm.diffusion.grids import GRIDS
from ldm.diffusion.langevin import langevin, langevin_step, predictor_corrector
from ldm.diffusion.schedules import SCHEDULES, VE, Flow

D = 3
MEAN = torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64)
COVARIANCE = spd(2.0, 0.5, 0.05)
EXACT = gaussian(MEAN, COVARIANCE)


def scalar(number):
    return torch.tensor(number, dtype=torch.float64)


def ve_levels(n, smallest=0.01):
    """A geometric ladder, as NCSN's."""
    return GRIDS["trailing"](VE(smallest, 20.0), n)


def variance_ratios(sampler, levels, draws, **options):
    """Generalised eigenvalues, ascending, of the samples' covariance against the last level's.

    The start has the first level's law. The mean is checked on the way, to 0.001.
    """
    mean, covariance = marginal(MEAN, COVARIANCE, levels[0])
    factor = torch.linalg.cholesky(covariance)

    def sample(z, noise):
        *_, (x, _, _) = sampler(EXACT, mean + z @ factor.T, levels, noise, **options)
        return x

    mean_found, found = law(sample, D, draws)
    mean_right, right = marginal(MEAN, COVARIANCE, levels[-1])
    torch.testing.assert_close(mean_found, mean_right, atol=1e-3, rtol=0)
    return torch.linalg.eigvals(torch.linalg.solve(right, found)).real.sort().values


@pytest.mark.parametrize("name", ["linear", "ve", "flow"])
@pytest.mark.parametrize("size", [0.1, 0.01])
def test_stationary_law_of_the_langevin_step(name, size):
    """On N(m, C) it is N(m, C/(1 - δσ²/2C)) in C's eigenbasis: right up to a bias of order δ.

    The unadjusted Langevin algorithm on a Gaussian (Roberts & Tweedie 1996, section 1.4.1).
    """
    level = SCHEDULES[name]().level(scalar(0.5))
    mean, covariance = marginal(MEAN, COVARIANCE, level)
    zero, unit = torch.zeros(1, D).double(), torch.eye(D).double()
    basis = torch.cat([zero, unit])
    moved = langevin_step(EXACT(basis, level), basis, level, size, torch.zeros_like(basis))
    matrix, offset = (moved[1:] - moved[0]).T, moved[0]
    zeros = zero.expand(D, D)
    noise = langevin_step(EXACT(zeros, level), zeros, level, size, unit) - moved[0]
    spread = noise.T @ noise
    for _ in range(20):  # 2^20 steps by squaring: x → Ax + b twice, and its noise
        spread = spread + matrix @ spread @ matrix.T
        offset, matrix = offset + matrix @ offset, matrix @ matrix
    torch.testing.assert_close(matrix, torch.zeros(D, D).double())  # the start is forgotten
    torch.testing.assert_close(offset, mean)
    values, vectors = torch.linalg.eigh(covariance)
    biased = values / (1 - size * level.sigma**2 / (2 * values))
    torch.testing.assert_close(spread, vectors * biased @ vectors.T)
    assert float((biased / values).max()) <= 1 / (1 - size / 2) + 1e-9


def test_langevin_settles_on_both_modes_of_a_mixture():
    """4,000 particles that start on one mode, against the level's own distribution function.

    The Kolmogorov-Smirnov distance of 4,000 right draws is under 0.0257 in 99 of 100 runs. A law
    whose modes weigh 0.55 and 0.45 is at 0.04, and is refused with a power of 0.98.
    """
    points, variance, n = torch.tensor([[-1.0], [1.0]], dtype=torch.float64), 0.05, 4000
    level, denoise = Flow().level(scalar(0.45)), mixture(points, variance)
    generator = torch.Generator().manual_seed(0)
    std = (level.alpha**2 * variance + level.sigma**2).sqrt()

    def distance(x):
        x = x.flatten().sort().values
        cdf = torch.special.ndtr((x[:, None] - level.alpha * points.T) / std).mean(1)
        steps = torch.arange(n + 1, dtype=torch.float64) / n
        return float(torch.maximum((cdf - steps[:-1]).abs(), (cdf - steps[1:]).abs()).max())

    x = level.alpha + std * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    assert distance(x) > 0.3
    for _ in range(600):
        z = torch.randn(n, 1, generator=generator, dtype=torch.float64)
        x = langevin_step(denoise(x, level), x, level, 0.03, z)
    assert distance(x) < 0.0257


@pytest.mark.parametrize("name", ["vp", "ve", "flow"])
def test_predictor_corrector_reaches_the_data(name):
    """Twice the levels, about half the error; the limit is the data's covariance to 2 %.

    What stays is the corrector's bias, under 2·snr²/2 = 2.6 %.
    """
    schedule = VE(0.01, 20.0) if name == "ve" else SCHEDULES[name]()
    coarse, fine = (
        variance_ratios(predictor_corrector, GRIDS["trailing"](schedule, n), 2 * n)
        for n in (200, 400)
    )
    assert ((1 - coarse) > 1.6 * (1 - fine).abs()).all()
    torch.testing.assert_close(2 * fine - coarse, torch.ones(D).double(), atol=0.02, rtol=0)


def test_corrector_improves_on_its_predictor():
    """Against the same levels without corrections (Song et al. 2021, table 1)."""
    levels = GRIDS["trailing"](VE(0.01, 20.0), 50)
    without, with_one = (
        variance_ratios(predictor_corrector, levels, 50 * (k + 1), corrections=k) for k in (0, 1)
    )
    assert ((1 - with_one).abs() < (1 - without).abs()).all()


def test_annealed_langevin_reaches_the_data():
    """NCSN's 10 levels of 100 steps of size 0.1: within 11 %, and 5 % with 20 levels."""
    coarse, fine = (
        variance_ratios(langevin, GRIDS["trailing"](VE(0.01, 20.0), n), 100 * n) for n in (10, 20)
    )
    assert (coarse - 1).abs().max() < 0.11
    assert (fine - 1).abs().max() < 0.05


@pytest.mark.parametrize("sampler", [langevin, predictor_corrector])
def test_samplers_may_stop_early(sampler):
    """On a noisy last level samples have that level's law, to 10 %; one state a level."""
    levels = GRIDS["trailing"](Flow(), 50)[:31]
    corrections = {langevin: 100, predictor_corrector: 2}[sampler]
    states = list(sampler(EXACT, torch.zeros(1, D).double(), levels, lambda i: 0.0, corrections))
    assert len(states) == 30
    ratios = variance_ratios(sampler, levels, 30 * 100, corrections=corrections)
    assert (ratios - 1).abs().max() < 0.1


def test_each_draw_of_noise_is_asked_for_once_and_in_order():
    """So that an image's noise can be keyed by its index."""
    levels = GRIDS["trailing"](Flow(), 4)
    asked = []

    def noise(i):
        asked.append(i)
        return torch.zeros(1, D).double()

    list(langevin(EXACT, torch.zeros(1, D).double(), levels, noise, corrections=3))
    assert asked == list(range(9))  # three noisy levels after the first
    asked.clear()
    list(predictor_corrector(EXACT, torch.zeros(1, D).double(), levels, noise))
    assert asked == list(range(7))  # and the last predictor's, which a clean level silences
