"""Precision and recall, density and coverage: fidelity and diversity by nearest neighbours.

Precision, recall: Kynkäänniemi et al. 2019, k = 3. Density, coverage: Naeem et al. 2020, k = 5.
"""

import torch
from torch import Tensor

MOST = 10_000  # features of each set that enter: the distances of all pairs are held at once


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean (n, m), float64."""
    return torch.cdist(x.double(), y.double())


def own_distances(x: Tensor) -> Tensor:
    """Of a set to itself (n, n); infinite on the diagonal, so that nothing neighbours itself."""
    return distances(x, x).fill_diagonal_(torch.inf)


def _subset_radii(own: Tensor, masks: Tensor, k: int) -> Tensor:
    """Distance (R, n) of every feature to the k-th nearest other one within each subset."""
    reach = min(len(own) - 1, 32 * k)  # half of the neighbours are in a half: 32k always suffice
    near, order = own.topk(reach, dim=1, largest=False)
    result = []
    for mask in masks:
        kept = mask[order].cumsum(1)
        assert (kept[mask, -1] >= k).all(), "a subset too small for its neighbours"
        result.append(near.gather(1, (kept < k).sum(1, keepdim=True).clamp(max=reach - 1))[:, 0])
    return torch.stack(result)


def neighbour_shares(
    features: Tensor, reference: Tensor, masks: Tensor, k: int = 3, k_density: int = 5
) -> dict[str, Tensor]:
    """Precision, recall, density and coverage, (R,) each, of subsets of features (n, D).

    precision: share of samples within k-neighbour reach of a real one; recall: the reverse;
    density: how many real ones' reach a sample is within, over k; coverage: share of real ones with
    a sample within their reach.
    """
    w = masks.double()
    count = w.sum(1)
    apart = distances(features, reference)  # (n, m)
    most = max(k, k_density)
    nearest = own_distances(reference).topk(most, dim=1, largest=False).values  # (m, most)
    inside, inside_density = (apart <= nearest[:, j - 1] for j in (k, k_density))
    reach = _subset_radii(own_distances(features), masks, k)  # (R, n)
    recall = [
        (apart[m] <= r[m, None]).any(0).double().mean() for m, r in zip(masks, reach, strict=True)
    ]
    covered = [inside_density[mask].any(0).double().mean() for mask in masks]
    return {
        "precision": w @ inside.any(1).double() / count,
        "recall": torch.stack(recall),
        "density": w @ inside_density.double().sum(1) / (k_density * count),
        "coverage": torch.stack(covered),
    }
