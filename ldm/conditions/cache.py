"""What a tokenizer, or a frozen text encoder, makes of every distinct caption, computed once."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from datasets import Features, List, Value
from torch import Tensor
from tqdm.auto import tqdm

from ldm.conditions.conditioner import Conditioner
from ldm.core.fingerprint import fingerprint, vocabulary_hash
from ldm.core.share import Share
from ldm.core.text import say
from ldm.store.shards import Store, TensorColumn, open_shards
from ldm.store.texts import TextIndex

SHARD = 256  # captions per file
BATCH = 64
PART = 4096  # captions tokenised at once: a tokenizer keeps far more of each than its ids
TOKENISED = 16 * PART  # captions per file


class CaptionRows:
    """A row by caption, out of shards; "" is the empty prompt and is always there."""

    def __init__(self, paths: Sequence[Path], column: str, shape: Sequence[int]) -> None:
        shards = open_shards(paths)
        self._rows = TensorColumn(shards, column, shape)
        self._index = TextIndex(shard.column("caption") for shard in shards)

    def __len__(self) -> int:
        return len(self._index)

    def __call__(self, captions: Sequence[str | None]) -> Tensor:
        """Rows (B, ...), on the CPU; None is the empty prompt. KeyError for what is not there."""
        rows = self._index.rows([caption or "" for caption in captions])
        if (rows < 0).any():
            raise KeyError(captions[int(np.argmin(rows))])
        return self._rows.gather(rows)


class TextCache(CaptionRows):
    """Embeddings (B, L, D) by caption, float32."""

    @classmethod
    def build(
        cls,
        conditioner: Conditioner,
        captions: Iterable[str],
        folder: Path,
        share: Share,
        dtype: str = "float32",
    ) -> "TextCache":
        """Encode the captions that `folder` lacks and open it; every process takes its share.

        Captions that are already there are never encoded again; another encoder, tokenizer or dtype
        makes the folder anew, and the reason is printed.
        """
        key = {
            "encoder": fingerprint(conditioner.encoder),
            "tokenizer": vocabulary_hash(conditioner.tokenizer),
            "tokens": conditioner.tokenizer.model_max_length,
            "dtype": dtype,
        }

        def encode(texts: list[str]) -> np.ndarray:
            return _encode(conditioner, texts).astype(dtype)

        made = _Made("embedding", dtype, encode, BATCH, SHARD, ("text embeddings", "encoding"))
        paths = made.complete(captions, folder, key, share)
        return cls(paths, made.column, _encode(conditioner, [""]).shape[1:])

    def __call__(self, captions: Sequence[str | None]) -> Tensor:
        return super().__call__(captions).float()


class TokenTable(CaptionRows):
    """Token ids (B, L) by caption, int64."""

    @classmethod
    def build(
        cls, conditioner: Conditioner, captions: Iterable[str], folder: Path, share: Share
    ) -> "TokenTable":
        """Tokenise the captions that `folder` lacks and open it, as `TextCache.build`."""
        key = {
            "tokenizer": vocabulary_hash(conditioner.tokenizer),
            "tokens": conditioner.length,
            "tokenizers": tokenizers.__version__,  # whose rules between versions are no part of it
        }

        def tokenise(texts: list[str]) -> np.ndarray:
            return conditioner.tokens(texts).int().numpy()

        made = _Made("ids", "int32", tokenise, PART, TOKENISED, ("tokens", "tokenising"))
        paths = made.complete(captions, folder, key, share)
        return cls(paths, made.column, [conditioner.length])

    def __call__(self, captions: Sequence[str | None]) -> Tensor:
        return super().__call__(captions).long()


@dataclass(frozen=True)
class _Made:
    """How the rows of a column are made of captions, `batch` at once, `shard` in a file."""

    column: str
    dtype: str
    make: Callable[[list[str]], np.ndarray]
    batch: int
    shard: int
    called: tuple[str, str]  # the rows, and making them

    def complete(
        self, captions: Iterable[str], folder: Path, key: Mapping[str, Any], share: Share
    ) -> list[Path]:
        """The shards of a folder that holds all captions; those that it lacked are written."""
        store = Store(folder, key)
        if share.main:
            if changed := store.settle():
                say(f"the {self.called[0]} in {folder} are stale and are made again: {changed}")
            store.whole(_shards(folder))
        share.wait()

        known = TextIndex(table.column("caption") for table in open_shards(_shards(folder)))
        lacking = known.lacking(chain([""], captions))
        todo = [lacking[at : at + self.shard] for at in range(0, len(lacking), self.shard)]
        share.wait()  # all have looked before any writes
        mine = share.mine(todo)
        bar = tqdm(
            total=sum(map(len, mine)),
            desc=f"{self.called[1]} captions",
            unit="caption",
            disable=not (share.main and mine),
        )
        for texts in mine:
            parts = []
            for start in range(0, len(texts), self.batch):
                parts.append(self.make(texts[start : start + self.batch]))
                bar.update(len(parts[-1]))
            rows = np.concatenate(parts)
            size = int(np.prod(rows.shape[1:]))
            features = Features(
                {"caption": Value("string"), self.column: List(Value(self.dtype), length=size)}
            )
            columns = {"caption": texts, self.column: rows}
            store.write(folder / _name(texts), columns, features)
        bar.close()
        share.wait()
        return _shards(folder)


@torch.inference_mode()
def _encode(conditioner: Conditioner, texts: list[str]) -> np.ndarray:
    return conditioner.encode(conditioner.tokens(texts)).float().cpu().numpy()


def _shards(folder: Path) -> list[Path]:
    """What `_name` has named; a copy of somebody's is none."""
    return sorted(p for p in folder.glob("*.arrow") if re.fullmatch("[0-9a-f]{16}", p.stem))


def _name(texts: list[str]) -> str:
    """A shard's file name, from what it holds: no two processes ever want the same one."""
    return blake2b("\n".join(texts).encode(), digest_size=8).hexdigest() + ".arrow"
