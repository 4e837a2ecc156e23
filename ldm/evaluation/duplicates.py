"""Which training images are one image again: the same file, saved anew, mirrored or nudged.

Copies are told from images that are only alike by the set itself, without a scale from outside. The
neighbours of an image that are its copies end in a jump: the next one is much further away. And
there are more of such pairs than chance makes: of n different images in D dimensions about
n·ln 2·(t/u)^D have another one within t, u the usual distance.
"""

from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ldm.evaluation.neighbours import distances

BLOCK = 1024
REACH = 64  # neighbours that are looked at
JUMP = 3  # how much further than a copy the next image is
CHANCE = 1e-2  # of the pairs that are taken for copies, at most, are not


class Near(NamedTuple):
    """Of each of n images some other ones, nearest first."""

    distance: Tensor  # (n, k)
    place: Tensor  # (n, k), among the n


def neighbours(features: Tensor, here: Tensor, mirrored: Tensor) -> Near:
    """Of features (n, D) among each other, and those at `here` (k,) mirrored if that is nearer."""
    found, reach = [], min(REACH, len(features) - 1)
    for start in range(0, len(features), BLOCK):
        block = features[start : start + BLOCK]
        apart = distances(block, features)
        if len(here):
            apart[:, here] = torch.minimum(apart[:, here], distances(block, mirrored))
        rows = torch.arange(len(apart))
        apart[rows, start + rows] = torch.inf
        found.append(apart.topk(reach, largest=False))
    return Near(torch.cat([f.values for f in found]), torch.cat([f.indices for f in found]))


def _limit(near: Tensor, copies: Tensor, beyond: Tensor) -> float:
    """The distance below which no more than CHANCE of the pairs are of different images.

    near (n, k): distances to neighbours, rising; copies (n,): how many come before a jump;
    beyond (n,): the distance of the one after it.
    """
    n, reach = near.shape
    # E log(r_m / r_1) of the m-th neighbour is the harmonic number of m - 1, over D
    others = reach // (copies + 1)
    harmonic = torch.cat([torch.zeros(1), (1 / torch.arange(1.0, reach + 1)).cumsum(0)])
    growth = (near[:, -1] / beyond).log()[others > 1].sum()
    if growth <= 0:
        return 0.0
    dimension = float(harmonic[others - 1][others > 1].sum() / growth)
    chance = CHANCE * torch.arange(1, n + 1, dtype=torch.float64) / (n * log(2))
    limits = float(beyond.median()) * chance ** (1 / dimension)
    found = limits[near[:, 0].sort().values <= limits]
    return float(found.max()) if len(found) else 0.0


def groups(features: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Labels (m,) of features (m, D), the same for images that are one.

    `mirrored` (k, D), k <= m, are features of the first images mirrored: their copies are theirs.
    """
    unique, which = torch.unique(features, dim=0, return_inverse=True)
    n, order = len(unique), torch.arange(len(features))
    if n == 1:
        return which
    mirrored = features[:0] if mirrored is None else mirrored
    first = torch.full((n,), len(features)).scatter_reduce(0, which, order, "amin")
    here = (first < len(mirrored)).nonzero()[:, 0]
    near = neighbours(unique, here, mirrored[first[here]])
    apart = near.distance.clamp(min=float(near.distance.max()) * 1e-9)  # less is rounding
    jumps = JUMP * apart[:, :-1] < apart[:, 1:]
    places = torch.arange(1, apart.shape[1])
    copies = F.pad(jumps * places, (1, 0)).amax(1)  # the last jump's place; 0 where there is none
    beyond = apart.gather(1, copies[:, None])[:, 0]
    within = (beyond / JUMP).clamp(max=_limit(apart, copies, beyond))[:, None]
    joined = (near.distance < within).nonzero()
    edges = joined[:, 0], near.place[joined[:, 0], joined[:, 1]]
    graph = coo_array((torch.ones(len(joined)), edges), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    return torch.from_numpy(label).long()[which]


def repeated(label: Tensor) -> int:
    """How many images are there more than once."""
    count = label.bincount()
    return int(count[count > 1].sum())
