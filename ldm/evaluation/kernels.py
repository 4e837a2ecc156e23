"""Maximum mean discrepancy between feature sets: KID and CMMD, in float64 and in blocks."""

from collections.abc import Callable

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor], Tensor]  # (a, D), (b, D) -> (a, b)
BLOCK = 1024


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """(x·y / D + 1)³: the kernel of KID (Bińkowski et al. 2018, section 4)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(x: Tensor, y: Tensor) -> Tensor:
    """exp(-|x̂ - ŷ|² / 2σ²) of unit vectors, σ = 10: CMMD's kernel (Jayasumana et al. 2024)."""
    unit_x, unit_y = (v / v.norm(dim=1, keepdim=True) for v in (x, y))
    return (-(1 - unit_x @ unit_y.T) / 100).exp()


def mmd(kernel: Kernel, x: Tensor, y: Tensor, masks: Tensor, unbiased: bool) -> Tensor:
    """MMD² (R,) between subsets of x (n, D), masks (R, n) bool, and all of y (m, D).

    The unbiased estimate (Gretton et al. 2012, eq. 3) leaves out pairs of a feature with itself,
    and can be negative.
    """
    x, y, w = x.double(), y.double(), masks.double()
    count, m = w.sum(1), len(y)
    pairs, crossed, own = torch.zeros_like(count), torch.zeros_like(count), torch.zeros_like(count)
    for part, weight in zip(x.split(BLOCK), w.split(BLOCK, dim=1), strict=True):
        pairs += (weight * (w @ kernel(part, x).T)).sum(1)
        crossed += weight @ kernel(part, y).sum(1)
        own += weight @ kernel(part, part).diagonal()
    reference = sum(float(kernel(part, y).sum()) for part in y.split(BLOCK))
    if unbiased:
        diagonal = sum(float(kernel(part, part).trace()) for part in y.split(BLOCK))
        within = (pairs - own) / (count * (count - 1)) + (reference - diagonal) / (m * (m - 1))
    else:
        within = pairs / count**2 + reference / m**2
    return within - 2 * crossed / (count * m)


def kernel_distances(features: Tensor, reference: Tensor, masks: Tensor) -> Tensor:
    """KID (R,): the unbiased MMD² of all features at once, not a mean over random blocks."""
    return mmd(polynomial, features, reference, masks, unbiased=True)


def cmmds(features: Tensor, reference: Tensor, masks: Tensor) -> Tensor:
    """CMMD (R,): 1000 times the biased MMD², as its authors report it, on CLIP's features."""
    return 1000 * mmd(gaussian, features, reference, masks, unbiased=False)
