"""Process k of n, and work in fixed pieces that is split over them.

A network's last bits depend on how many images it sees at once. So the pieces, and with them the
figures, are the same on one process and on eight, and every process ends with all of the results.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")
MICRO_BATCH = 16  # images that a network sees at once, whatever the machine


def repeatable() -> AbstractContextManager[None]:
    """Within the block a GPU computes as it did the last time, and in full float32."""
    return torch.backends.cudnn.flags(True, benchmark=False, deterministic=True, allow_tf32=False)


@dataclass(frozen=True)
class Share:
    """Which process of how many this is; `gather` joins the lists of all of them.

    `ldm.training.processes` makes it of what a launcher started; whoever splits work is handed it.
    All of them come to each `gather`, `wait`, `total` and `each`, in the same order.
    """

    rank: int = 0
    world: int = 1
    gather: Callable[[list[Any]], list[Any]] = list

    @property
    def main(self) -> bool:
        """Whether it is this one that writes and speaks for all."""
        return self.rank == 0

    def wait(self) -> None:
        """Return once all have come here."""
        self.gather([None])

    def mine(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every world-th of `items`, which are the same on all."""
        return items[self.rank :: self.world]

    def total(self, table: Tensor) -> Tensor:
        """The sum of everyone's tables, on the CPU."""
        return torch.stack(self.gather([table.cpu()])).sum(0)

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """work(item) for every item, in their order, each by one of the processes."""
        mine = [(i, work(items[i])) for i in self.mine(range(len(items)))]
        return [result for _, result in sorted(self.gather(mine), key=lambda pair: pair[0])]


ALONE = Share()  # the only process


def pieces(n: int, size: int = MICRO_BATCH) -> list[list[int]]:
    """The indices 0 .. n-1 in pieces of exactly `size`: the last one repeats its last index."""
    starts = range(0, n, size)
    return [[min(i, n - 1) for i in range(start, start + size)] for start in starts]


def in_pieces(
    work: Callable[[list[int]], Tensor], n: int, share: Share, size: int = MICRO_BATCH
) -> Tensor:
    """The results (n, ...) of work(indices) -> (size, ...), on the CPU."""
    results = share.each(lambda piece: work(piece).cpu(), pieces(n, size))
    return torch.cat(results)[:n]
