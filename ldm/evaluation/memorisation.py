"""Does the model draw, or recite? Samples against their nearest training images.

"Near" needs a scale, and the training set has one: how far each of its images is from its own
nearest other one. A sample closer to a training image than that is a candidate for a copy. Held-out
images, which cannot be copies, say how often that happens by chance. Of an image that is there more
than once the other copies are not "other ones": they would make the scale nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ldm.evaluation.duplicates import BLOCK, groups, repeated
from ldm.evaluation.neighbours import distances


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


def own_nearest(training: Tensor, label: Tensor | None = None) -> Tensor:
    """Distance (m,) of each training image to its nearest other one.

    Images of one `label` (m,) are one; infinite where there is no other.
    """
    label = torch.arange(len(training)) if label is None else label
    found = []
    for start in range(0, len(training), BLOCK):
        apart = distances(training[start : start + BLOCK], training)
        apart[label[start : start + BLOCK, None] == label] = torch.inf
        found.append(apart.min(1).values)
    return torch.cat(found)


def _found(features: Tensor, sets: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Distance (n,) to the nearest of any of the sets, each (m, D), and its index."""
    distance = torch.full((len(features),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(features), dtype=torch.long)
    for candidates in sets:
        for start in range(0, len(candidates), BLOCK):
            best = distances(features, candidates[start : start + BLOCK]).min(1)
            closer = best.values < distance
            distance = torch.where(closer, best.values, distance)
            index = torch.where(closer, best.indices + start, index)
    return distance, index


class Training:
    """The training images to search: features (m, D), and of the mirrored ones if trained on.

    Of `held_out` (h, D), where there are any, those that are training images too are told.
    """

    def __init__(
        self, features: Tensor, mirrored: Tensor | None = None, held_out: Tensor | None = None
    ) -> None:
        self.sets = [features] if mirrored is None else [features, mirrored]
        m = len(features)
        every = features if held_out is None else torch.cat([features, held_out])
        label = groups(every, mirrored)
        self.label = label[:m]
        self.own = own_nearest(features, self.label)
        self.leaked = torch.isin(label[m:], self.label)  # (h,)

    @property
    def distinct(self) -> int:
        """Training images, each counted once."""
        return len(self.label.unique())

    @property
    def repeated(self) -> int:
        """Training images of which there is more than one."""
        return repeated(self.label)

    def nearest(self, features: Tensor) -> Nearest:
        """Of samples (n, D). Takes at least two distinct training images."""
        distance, index = _found(features, self.sets)
        return Nearest(distance, index, distance / self.own[index].clamp(min=1e-12))
