"""Does the model draw, or recite? Samples against their nearest training images.

"Near" needs a scale, and the training set has one: how far each of its images is from its own
nearest other one. A sample closer to a training image than that is a candidate for a copy. Held-out
images, which cannot be copies, say how often that happens by chance.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ldm.evaluation.neighbours import distances

BLOCK = 1024


class Nearest(NamedTuple):
    """For each sample its nearest training image."""

    distance: Tensor  # (n,)
    neighbour: Tensor  # (n,) index of the training image
    ratio: Tensor  # (n,) distance over that image's own distance to its nearest other one

    @property
    def copied(self) -> Tensor:
        """Which samples (n,) are closer to a training image than the training set's own are."""
        return self.ratio < 1

    def closest(self, count: int) -> list[int]:
        """The samples that look most like copies, most suspicious first."""
        return self.ratio.argsort()[:count].tolist()


def own_nearest(training: Tensor) -> Tensor:
    """Distance (m,) of each training image to its nearest other one."""
    found = []
    for start in range(0, len(training), BLOCK):
        apart = distances(training[start : start + BLOCK], training)
        rows = torch.arange(len(apart))
        apart[rows, start + rows] = torch.inf
        found.append(apart.min(1).values)
    return torch.cat(found)


def nearest(features: Tensor, training: Tensor, mirrored: Tensor | None = None) -> Nearest:
    """Nearest neighbours of samples (n, D) among training features (m, D).

    `mirrored` (m, D) are the features of the mirrored training images, where those were trained on.
    """
    own = own_nearest(training)
    distance = torch.full((len(features),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(features), dtype=torch.long)
    for candidates in (training, mirrored):
        if candidates is None:
            continue
        for start in range(0, len(candidates), BLOCK):
            best = distances(features, candidates[start : start + BLOCK]).min(1)
            closer = best.values < distance
            distance = torch.where(closer, best.values, distance)
            index = torch.where(closer, best.indices + start, index)
    return Nearest(distance, index, distance / own[index].clamp(min=1e-12))
