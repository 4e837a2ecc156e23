"""Which example is trained on when: a pure function of the seed and a position, never a stream."""

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from ldm.core.errors import UserError

FIXED = -1  # the epoch that no training reaches: its order chooses what is evaluated


class Slot(NamedTuple):
    """One place of one optimizer step, and the example that stands in it."""

    step: int
    slot: int  # within the global batch of the step
    index: int  # type: ignore[assignment]  # into the source; hides tuple.index
    epoch: int


def _mixed(z: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: a bijection of 64-bit integers without visible structure."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """A shuffle of range(n), int64 (n,); integer arithmetic only, so equal on every machine."""
    key = int.from_bytes(blake2b(repr((seed, epoch)).encode(), digest_size=8).digest(), "little")
    gamma = np.uint64(0x9E3779B97F4A7C15)
    ranks = _mixed(np.arange(1, n + 1, dtype=np.uint64) * gamma + np.uint64(key))
    order = np.argsort(ranks, kind="stable")
    order.flags.writeable = False  # it is shared by the cache
    return order


def subset(n: int, count: int, seed: int = 0) -> list[int]:
    """At most `count` of range(n), drawn from all of it, rising: folders are sorted by class."""
    return sorted(permutation(seed, FIXED, n)[:count].tolist())


def slot_at(seed: int, n: int, batch_size: int, step: int, slot: int, shuffle: bool = True) -> Slot:
    """The example in `slot` of `step`: one cursor runs through the epochs, across their ends."""
    epoch, position = divmod(step * batch_size + slot, n)
    index = int(permutation(seed, epoch, n)[position]) if shuffle else position
    return Slot(step, slot, index, epoch)


def micro_batch_size(batch_size: int, accumulation: int, world: int) -> int:
    """Examples that a process sees at once. Raises UserError where the batch does not divide."""
    parts = accumulation * world
    if batch_size % parts:
        raise UserError(
            f"a batch of {batch_size} does not divide into {accumulation} accumulation x {world} "
            f"processes; choose a batch_size that is a multiple of {parts}"
        )
    return batch_size // parts


def micro_batches(
    seed: int,
    n: int,
    batch_size: int,
    accumulation: int = 1,
    world: int = 1,
    rank: int = 0,
    start: int = 0,
    stop: int | None = None,
    shuffle: bool = True,
) -> Iterator[list[Slot]]:
    """The micro-batches of one process for the steps start <= step < stop, in order.

    Each step gives `accumulation` lists of b = batch_size / (accumulation * world) slots; list m
    of process r holds the global slots [(m * world + r) * b, +b). So the union over processes and
    accumulation is the same for every split. shuffle=False keeps the source's own order, for one
    that is `sequential`. Raises UserError where the batch does not divide.
    """
    if n < 1:
        raise UserError("the data set is empty: there is nothing to train on")
    micro_batch_size(batch_size, accumulation, world)
    return _micro_batches(seed, n, batch_size, accumulation, world, rank, start, stop, shuffle)


def _micro_batches(
    seed: int,
    n: int,
    batch_size: int,
    accumulation: int,
    world: int,
    rank: int,
    start: int,
    stop: int | None,
    shuffle: bool,
) -> Iterator[list[Slot]]:
    b = micro_batch_size(batch_size, accumulation, world)
    step = start
    while stop is None or step < stop:
        for m in range(accumulation):
            first = (m * world + rank) * b
            yield [slot_at(seed, n, batch_size, step, first + k, shuffle) for k in range(b)]
        step += 1
