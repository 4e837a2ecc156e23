"""What is known in closed form of a Gaussian: draws, density, marginals, and where it flows."""

import math

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
