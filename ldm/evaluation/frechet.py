"""Fréchet distance between the Gaussians of two feature sets (Heusel et al. 2017), in float64.

|μ₁ - μ₂|² + tr Σ₁ + tr Σ₂ - 2 tr (Σ₁Σ₂)^½. The last trace is the sum of the singular values of
A·Σ₂^½ for any A with AᵀA = Σ₁, so no matrix square root of a non-symmetric product is taken, and a
covariance of fewer samples than dimensions does no harm.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

BLOCK = 1024  # rows that are summed at once; fixed, so that sums do not depend on batches


@dataclass(frozen=True)
class Moments:
    """Number, mean (D,) and scatter Σ(x-μ)(x-μ)ᵀ (D, D) of features seen so far, float64."""

    n: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """(D, D), unbiased."""
        return self.scatter / (self.n - 1)

    def merged(self, other: "Moments") -> "Moments":
        """Of both sets together (Chan, Golub & LeVeque 1979): nothing large cancels."""
        n, gap = self.n + other.n, other.mean - self.mean
        scatter = self.scatter + other.scatter + torch.outer(gap, gap) * (self.n * other.n / n)
        return Moments(n, self.mean + gap * (other.n / n), scatter)

    @cached_property
    def root(self) -> Tensor:
        """Σ^½ (D, D), symmetric."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def moments(features: Tensor | Iterable[Tensor]) -> Moments:
    """Of features (n, D), or of a stream of batches (B, D) that is never held at once."""
    batches = features.split(BLOCK) if isinstance(features, Tensor) else features
    total: Moments | None = None
    for batch in batches:
        x = batch.double()
        mean = x.mean(0)
        part = Moments(len(x), mean, (x - mean).T @ (x - mean))
        total = part if total is None else total.merged(part)
    assert total is not None, "no features"
    return total


def frechet_distance(a: Moments, b: Moments) -> float:
    """Between two sets known by their moments alone."""
    overlap = torch.linalg.svdvals(a.root @ b.root).sum()
    traces = a.covariance.trace() + b.covariance.trace()
    return float((a.mean - b.mean).square().sum() + traces - 2 * overlap)


def frechet_distances(features: Tensor, reference: Moments, masks: Tensor) -> Tensor:
    """Fréchet distances (R,) of subsets of features (n, D) to a reference; masks (R, n) bool.

    Through the eigenvalues of a Gram matrix, which is as exact as the singular values up to 1e-8 of
    the largest, and much cheaper: many subsets are the interval of one figure.
    """
    x = features.double()
    turned = x @ reference.root
    fixed = reference.covariance.trace()
    distances = []
    for mask in masks:
        part, n = x[mask], int(mask.sum())
        mean = part.mean(0)
        spread = (part - mean).square().sum() / (n - 1)
        z = turned[mask] - mean @ reference.root
        gram = z @ z.T if n <= z.shape[1] else z.T @ z
        overlap = torch.linalg.eigvalsh(gram / (n - 1)).clamp(min=0).sqrt().sum()
        distances.append((mean - reference.mean).square().sum() + spread + fixed - 2 * overlap)
    return torch.stack(distances)
