"""What is known in closed form of a Gaussian: its density, marginals, flow, any sampler's law.

With a Gaussian's denoiser every sampler is affine in the noise that it is given. Unit inputs show
the map, and the map gives the law of the samples: exactly, without drawing any.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ldm.diffusion.plane import Level


def spd(*eigenvalues: float, seed: int = 0) -> Tensor:
    """A covariance with these eigenvalues and no axis of its own."""
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T


def draw(mean: Tensor, covariance: Tensor, n: int, seed: int = 0) -> Tensor:
    """(n, D) draws of N(mean, covariance)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, len(mean), generator=generator, dtype=torch.float64)
    return mean + z @ torch.linalg.cholesky(covariance).T


def log_density(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """log N(x; mean, covariance) of x (B, D)."""
    off = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), (x - mean).T, upper=False
    )
    log_det = torch.linalg.slogdet(covariance).logabsdet
    return -0.5 * (off.square().sum(0) + log_det + len(mean) * math.log(2 * math.pi))


def marginal(mean: Tensor, covariance: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x at a level."""
    eye = torch.eye(len(mean), dtype=mean.dtype)
    return level.alpha * mean, level.alpha**2 * covariance + level.sigma**2 * eye


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values**exponent @ vectors.T


def flowed(
    mean: Tensor, covariance: Tensor, top: Level, prior_variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x0 where N(0, prior_variance) at `top` follows the probability flow.

    The flow keeps a Gaussian's whitened coordinates: x0 = μ + Σ^½ C^-½ (x - αμ).
    """
    m, c = marginal(mean, covariance, top)
    a = _power(covariance, 0.5) @ _power(c, -0.5)
    return mean - a @ m, prior_variance * a @ a.T


def law(sample: Callable[[Tensor, Callable[[int], Tensor]], Tensor], dim: int, draws: int):
    """Mean and covariance of sample(z, noise), affine in z (B, D) and in noise(0 … draws - 1)."""
    units = torch.zeros(1 + draws, 1 + (1 + draws) * dim, dim, dtype=torch.float64)
    for k in range(1 + draws):
        units[k, 1 + k * dim : 1 + (k + 1) * dim] = torch.eye(dim)
    out = sample(units[0], lambda i: units[1 + i])
    response = out[1:] - out[0]
    return out[0], response.T @ response


def flow_map(mean: Tensor, covariance: Tensor, x: Tensor, a: Level, b: Level) -> Tensor:
    """Where the probability flow takes x (B, D) from level a to level b."""
    (m_a, c_a), (m_b, c_b) = (marginal(mean, covariance, level) for level in (a, b))
    return m_b + (x - m_a) @ (_power(c_b, 0.5) @ _power(c_a, -0.5)).T
