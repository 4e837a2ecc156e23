"""Randomness as a pure function of a key, so that nothing has to be saved to repeat it.

A stream of random numbers must be replayed to be resumed, and splits differently over another
number of processes. A key, say (seed, step, slot, "noise"), has neither problem. Numbers are drawn
on the CPU, so that they do not depend on the device.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Key = int | str


def _digest(key: tuple[Key, ...]) -> int:
    # repr keeps ("1", 2) and (1, "2") apart, and is stable across processes, unlike hash()
    key = tuple(int(part) if isinstance(part, np.integer) else part for part in key)
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def generator(*key: Key) -> torch.Generator:
    """A CPU generator seeded by `key`."""
    return torch.Generator().manual_seed(_digest(key))


def uniform(*key: Key) -> float:
    """A number in [0, 1), with 53 random bits."""
    return (_digest(key) >> 11) * 2.0**-53


def integer(*key: Key, below: int) -> int:
    """An integer in [0, below); the bias of the modulus is under below / 2^64."""
    return _digest(key) % below


def normal(shape: Sequence[int], *key: Key) -> Tensor:
    """Standard normal float32 noise of `shape`."""
    return torch.randn(tuple(shape), generator=generator(*key))


def example_normal(
    shape: Sequence[int], seed: int, step: int, slots: Sequence[int], purpose: str
) -> Tensor:
    """Noise (B, *shape) of the training examples at `slots` of one step, each by its own key."""
    return torch.stack([normal(shape, seed, purpose, step, slot) for slot in slots])


def example_uniform(seed: int, step: int, slots: Sequence[int], purpose: str) -> Tensor:
    """Independent numbers (B,) in [0, 1), float64, of the examples at `slots` of one step."""
    return torch.tensor([uniform(seed, purpose, step, s) for s in slots], dtype=torch.float64)


def example_stratified(
    seed: int, step: int, slots: Sequence[int], batch_size: int, purpose: str
) -> Tensor:
    """Numbers (B,) in [0, 1), float64, of which a whole batch has one in every 1/batch_size.

    A low-discrepancy set (VDM, Kingma et al. 2021, appendix I.1) of lower variance than independent
    draws; a keyed permutation of the strata keeps a slot's number independent of its index.
    """
    strata = torch.randperm(batch_size, generator=generator(seed, purpose, "strata", step))
    offset = uniform(seed, purpose, "offset", step)
    return (strata[list(slots)].double() + offset) / batch_size
