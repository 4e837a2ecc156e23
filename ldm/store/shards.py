"""A cache of expensive rows: `datasets` Arrow files, whole or absent, and a key that cannot lie.

A shard is whole or not there (ldm/core/files.py): a process killed at any moment leaves whole
shards, and the next one writes only those that are missing. The key says what the rows were made
of; a key that no longer holds empties the folder and says which part of it changed. A shard ends
with the SHA-256 of that key, its name and its rows; one that does not match is made again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Features
from torch import Tensor
from tqdm.auto import tqdm

from ldm.core.files import sweep, written
from ldm.core.sums import is_sealed, read_sealed, write_sealed
from ldm.core.text import say

SEAL = 32  # bytes at the end of a shard
BLOCK = 1 << 22  # bytes that are hashed at once
RESIDENT_BYTES = 2 * 1024**3  # a column smaller than this is read into memory once


class Store:
    """Shards in one folder, made of what `key` says, each sealed to it and to its own name."""

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder, self.key = folder, json.loads(json.dumps(key))
        self.name = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()

    def settle(self) -> str | None:
        """Have rows of this key only; returns what changed if older rows had to go.

        For one process, before any other looks. A key that is lost or damaged is written again:
        the rows know by their seals whether they are of this one.
        """
        record = self.folder / "key.json"
        sweep(self.folder)
        before, damaged = None, False
        try:
            before = read_sealed(record)
        except FileNotFoundError:
            pass
        except (OSError, ValueError):
            damaged = True
        if before == self.key:
            self._adopt(record)
            return None
        if before is not None:
            for kind in ("*.arrow", "*.json", "*.jsonl"):
                for stale in self.folder.glob(kind):
                    _remove(stale)
        if damaged:
            say(f"{record} is damaged: made again")
            _remove(record)
        write_sealed(record, self.key)
        if before is None:
            return None
        changed = [k for k in {**before, **self.key} if before.get(k) != self.key.get(k)]
        return "; ".join(f"{k} was {before.get(k)!r} and is {self.key.get(k)!r}" for k in changed)

    def _adopt(self, record: Path) -> None:
        """Seal what an older version left, which had no seals, where it can be read to its end."""
        if is_sealed(record):
            return
        for path in self.folder.glob("*.arrow"):
            if not self._whole(path) and _readable(path):
                with path.open("r+b") as file:
                    file.write(self._seal(path, iter(partial(file.read, BLOCK), b"")))
        write_sealed(record, self.key)

    def whole(self, paths: Iterable[Path]) -> list[Path]:
        """Those of `paths` that are as they were written; damaged ones are named and removed.

        Every byte is read once, in threads: the hash takes no lock, and some 1 GB a second.
        """
        there = [path for path in paths if path.exists() or path.is_symlink()]
        sound = []
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = tqdm(pool.map(self._whole, there), "verifying", len(there), False, delay=5)
            for path, whole in zip(there, found, strict=True):
                if whole:
                    sound.append(path)
                else:
                    say(f"{path} is damaged: made again")
                    _remove(path)
        return sound

    def _whole(self, path: Path) -> bool:
        try:
            size = path.stat().st_size - SEAL
            with path.open("rb") as file:
                rows = (file.read(min(BLOCK, size - at)) for at in range(0, size, BLOCK))
                return self._seal(path, rows) == file.read() and size >= 0
        except OSError:
            return False

    def _seal(self, path: Path, content: Iterable[Any]) -> bytes:
        """The SHA-256 of the key, the file's name and its rows, given in parts."""
        digest = hashlib.sha256(f"{self.name} {path.name} ".encode())
        for part in content:
            digest.update(part)
        return digest.digest()

    def write(self, path: Path, columns: Mapping[str, Any], features: Features) -> None:
        """Write equally long columns as one Arrow file that `datasets.Dataset.from_file` opens.

        A numpy column (n, ...) is stored flat, as a fixed-size list of its elements. The seal comes
        after the end of the stream, where no reader looks.
        """
        arrays = []
        for name in features:
            column = columns[name]
            if isinstance(column, np.ndarray) and column.ndim > 1:
                flat = pa.array(column.reshape(-1))
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, column[0].size))
            else:
                kind = pa.schema(features.arrow_schema).field(name).type
                arrays.append(pa.array(column, type=kind))
        table = pa.Table.from_arrays(arrays, schema=features.arrow_schema)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        content = sink.getvalue()
        with written(path) as file, file.open("wb") as out:
            out.write(content)
            out.write(self._seal(path, [content]))


def _remove(path: Path) -> None:
    """Whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _readable(path: Path) -> bool:
    """Whether every row of an Arrow file can be read, and every number of it is finite."""
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_stream(file).read_all()
            table.validate(full=True)
            lists = [c for c in table.columns if pa.types.is_fixed_size_list(c.type)]
            flat = [chunk.flatten() for column in lists for chunk in column.chunks]
            return all(np.isfinite(part.to_numpy(zero_copy_only=False)).all() for part in flat)
    except (pa.ArrowException, OSError, ValueError):
        return False


def open_shards(paths: Sequence[Path]) -> list[pa.Table]:
    """Memory-map shards. As tables: `Dataset.from_file` spends 5 ms on naming each."""
    return [pa.ipc.open_stream(pa.memory_map(str(path))).read_all() for path in paths]


class TensorColumn:
    """A column of equally shaped tensors across shards: in memory if small, else memory-mapped."""

    def __init__(
        self,
        shards: Sequence[pa.Table],
        name: str,
        shape: Sequence[int],
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        self.shape = tuple(shape)
        self._parts = [
            chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, *self.shape)
            for shard in shards
            for chunk in shard.column(name).chunks
        ]
        self._ends = np.cumsum([len(part) for part in self._parts])
        if sum(part.nbytes for part in self._parts) < resident_bytes:
            self._parts = [np.concatenate(self._parts)] if self._parts else []
            self._ends = self._ends[-1:]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def gather(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """Rows (B, *shape), in the column's own type."""
        if len(self._parts) == 1:
            return torch.from_numpy(self._parts[0][rows])
        which = np.searchsorted(self._ends, rows, side="right")
        picked = []
        for row, k in zip(rows, which, strict=True):
            start = int(self._ends[k - 1]) if k else 0
            picked.append(self._parts[k][row - start])
        return torch.from_numpy(np.stack(picked))

    def blocks(self) -> Sequence[np.ndarray]:
        """The whole column, in order, as arrays (n, *shape)."""
        return self._parts
