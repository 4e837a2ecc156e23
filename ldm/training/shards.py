"""A cache of expensive rows: `datasets` Arrow files, whole or absent, and a key that cannot lie.

A shard is written to a temporary name, fsynced and renamed: a process killed at any moment leaves
whole shards, and the next one writes only those that are missing. The key says what the rows
were made of; a key that no longer holds empties the folder and says which part of it changed.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features
from torch import Tensor, nn

RESIDENT_BYTES = 2 * 1024**3  # a column smaller than this is read into memory once


def fingerprint(module: nn.Module, *also: object) -> str:
    """A hash of a module's configuration and weights (name, shape, dtype, bytes), and of `also`."""
    digest = hashlib.blake2b(digest_size=16)
    config = getattr(module, "config", {})
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    settings = {k: v for k, v in settings.items() if k[0] != "_" and k != "transformers_version"}
    digest.update(repr((sorted(settings.items()), also)).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def settle(folder: Path, key: Mapping[str, Any]) -> str | None:
    """Make `folder` hold rows of this key only; return what changed if older rows had to go."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "key.json"
    key = json.loads(json.dumps(key))
    for left_over in folder.glob(".*.*"):  # the temporary files of a process that was killed
        left_over.unlink()
    before = json.loads(record.read_text()) if record.exists() else None
    if before == key:
        return None
    for stale in [*folder.glob("*.arrow"), *folder.glob("*.json"), *folder.glob("*.jsonl")]:
        stale.unlink()
    write_atomically(record, json.dumps(key, indent=2).encode())
    if before is None:
        return None
    changed = [k for k in {**before, **key} if before.get(k) != key.get(k)]
    return "; ".join(f"{k} was {before.get(k)!r} and is {key.get(k)!r}" for k in changed)


def write_shard(path: Path, columns: Mapping[str, Any], features: Features) -> None:
    """Write equally long columns as one Arrow file that `datasets.Dataset.from_file` opens.

    A numpy column (n, ...) is stored flat, as a fixed-size list of its elements.
    """
    arrays = []
    for name in features:
        column = columns[name]
        if isinstance(column, np.ndarray) and column.ndim > 1:
            flat = pa.array(column.reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, column[0].size))
        else:
            arrays.append(pa.array(column, type=pa.schema(features.arrow_schema).field(name).type))
    table = pa.Table.from_arrays(arrays, schema=features.arrow_schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    write_atomically(path, sink.getvalue())


def open_shards(paths: Sequence[Path]) -> list[Dataset]:
    """Memory-map shards."""
    return [Dataset.from_file(str(path)) for path in paths]


class TensorColumn:
    """A column of equally shaped tensors across shards: in memory if small, else memory-mapped."""

    def __init__(
        self,
        shards: Sequence[Dataset],
        name: str,
        shape: Sequence[int],
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        self.shape = tuple(shape)
        self._parts = [
            chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, *self.shape)
            for shard in shards
            for chunk in shard.data.column(name).chunks
        ]
        self._ends = np.cumsum([len(part) for part in self._parts])
        if sum(part.nbytes for part in self._parts) < resident_bytes:
            self._parts = [np.concatenate(self._parts)] if self._parts else []
            self._ends = self._ends[-1:]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def gather(self, rows: Sequence[int]) -> Tensor:
        """Rows (B, *shape), float32."""
        which = np.searchsorted(self._ends, rows, side="right")
        picked = []
        for row, k in zip(rows, which, strict=True):
            start = int(self._ends[k - 1]) if k else 0
            picked.append(self._parts[k][row - start])
        return torch.from_numpy(np.stack(picked)).float()

    def blocks(self) -> Sequence[np.ndarray]:
        """The whole column, in order, as arrays (n, *shape)."""
        return self._parts
