"""A Brownian motion as a pure function of a key: any two of its values agree, in any order asked.

It is Lévy's construction: known at powers of two, and between them halved until it is near enough.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ldm.core import keyed

LEAST = -24  # below 2^LEAST the motion is a straight line from 0
HALVINGS = 24  # of an octave; what lies between the last is a line as well


def brownian(shape: Sequence[int], s: float, t: float, *key: keyed.Key) -> Tensor:
    """B(t) - B(s), float32, of the motion with this key in each element: N(0, |t - s|)."""
    return (_value(shape, t, key) - _value(shape, s, key)).float()


def _value(shape: Sequence[int], t: float, key: tuple[keyed.Key, ...]) -> Tensor:
    """B(t), float64, for finite t of at least 0."""

    def normal(at: float) -> Tensor:
        return keyed.normal(shape, *key, at.hex()).double()

    left, value = 2.0**LEAST, 2.0 ** (LEAST / 2) * normal(2.0**LEAST)
    if t <= left:
        return t / left * value
    while t > 2 * left:
        value, left = value + math.sqrt(left) * normal(2 * left), 2 * left
    right, ahead = 2 * left, value + math.sqrt(left) * normal(2 * left)
    for _ in range(HALVINGS):
        middle = (left + right) / 2
        between = (value + ahead) / 2 + math.sqrt(right - left) / 2 * normal(middle)
        if t < middle:
            right, ahead = middle, between
        else:
            left, value = middle, between
    return torch.lerp(value, ahead, (t - left) / (right - left))
