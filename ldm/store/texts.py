"""Which row of a store is of which text, in 24 bytes a text, whatever its length."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import islice

import numpy as np
import pyarrow as pa

BLOCK = 1 << 16  # texts that are Python objects at once


class TextIndex:
    """Rows by text. A text is told by 128 bits of its BLAKE2b: no two will ever share those.

    Of a text that is there twice, the last row counts.
    """

    def __init__(self, columns: Iterable[pa.ChunkedArray]) -> None:
        blocks = (
            hashes(chunk[start : start + BLOCK].to_pylist())
            for column in columns
            for chunk in column.chunks
            for start in range(0, len(chunk), BLOCK)
        )
        both = np.concatenate([np.zeros((0, 2), np.uint64), *blocks])
        self._row = np.argsort(both[:, 0], kind="stable")
        self._first, self._second = both[self._row].T

    def __len__(self) -> int:
        return len(self._row)

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """The row of each text, int64 (n,); -1 for one that is not there."""
        if not len(self):
            return np.full(len(texts), -1)
        first, second = hashes(texts).T
        at = np.searchsorted(self._first, first, side="right") - 1
        while True:
            same = (at >= 0) & (self._first[at] == first)
            other = same & (self._second[at] != second)  # half of the bits alike: look further
            if not other.any():
                return np.where(same, self._row[at], -1)
            at[other] -= 1

    def lacking(self, texts: Iterable[str]) -> list[str]:
        """Those of many texts that are not there, distinct and sorted."""
        found: set[str] = set()
        remaining = iter(texts)
        while block := list(islice(remaining, BLOCK)):
            found.update(block[i] for i in np.flatnonzero(self.rows(block) < 0))
        return sorted(found)


def hashes(texts: Sequence[str]) -> np.ndarray:
    """uint64 (n, 2)."""
    digests = (blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16) for text in texts)
    return np.frombuffer(b"".join(d.digest() for d in digests), "<u8").reshape(-1, 2)
