"""What a tokenizer, or a frozen text encoder, makes of every distinct caption, computed once."""

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from datasets import Features, List, Value
from torch import Tensor
from tqdm.auto import tqdm

from ldm.conditions.conditioner import Conditioner
from ldm.core.fingerprint import fingerprint, vocabulary_hash
from ldm.core.share import Share
from ldm.core.text import say
from ldm.store.shards import Store, TensorColumn, open_shards

SHARD = 256  # captions per file
BATCH = 64
PART = 4096  # captions tokenised at once: a tokenizer keeps far more of each than its ids


class TextCache:
    """Embeddings (L, D) by caption; "" is the empty prompt and is always there."""

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int]) -> None:
        shards = open_shards(paths)
        self._embeddings = TensorColumn(shards, "embedding", shape)
        texts = (text for shard in shards for text in shard["caption"].to_pylist())
        self._row = {text: row for row, text in enumerate(texts)}

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
        store = Store(folder, key)
        if share.main:
            if changed := store.settle():
                say(f"the text embeddings in {folder} are stale and are made again: {changed}")
            store.whole(_shards(folder))
        share.wait()

        present = _shards(folder)
        known = {text for shard in open_shards(present) for text in shard["caption"].to_pylist()}
        lacking = sorted({"", *captions} - known)
        todo = [lacking[start : start + SHARD] for start in range(0, len(lacking), SHARD)]
        share.wait()  # all have looked before any writes
        mine = share.mine(todo)
        bar = tqdm(
            total=sum(map(len, mine)),
            desc="encoding captions",
            unit="caption",
            disable=not (share.main and mine),
        )
        for texts in mine:
            parts = []
            for start in range(0, len(texts), BATCH):
                parts.append(_encode(conditioner, texts[start : start + BATCH]))
                bar.update(len(texts[start : start + BATCH]))
            embedding = np.concatenate(parts).astype(dtype)
            features = Features(
                caption=Value("string"),
                embedding=List(Value(dtype), length=int(np.prod(embedding.shape[1:]))),
            )
            columns = {"caption": texts, "embedding": embedding}
            store.write(folder / _name(texts), columns, features)
        bar.close()
        share.wait()
        shape = _encode(conditioner, [""]).shape[1:]
        return cls(_shards(folder), shape)

    def __len__(self) -> int:
        return len(self._row)

    def __call__(self, captions: Sequence[str | None]) -> Tensor:
        """Embeddings (B, L, D), float32, on the CPU; None is the empty prompt."""
        return self._embeddings.gather([self._row[caption or ""] for caption in captions])


@torch.inference_mode()
def _encode(conditioner: Conditioner, texts: list[str]) -> np.ndarray:
    return conditioner.encode(conditioner.tokens(texts)).float().cpu().numpy()


def _shards(folder: Path) -> list[Path]:
    """What `_name` has named; a copy of somebody's is none."""
    return sorted(p for p in folder.glob("*.arrow") if re.fullmatch("[0-9a-f]{16}", p.stem))


def _name(texts: list[str]) -> str:
    """A shard's file name, from what it holds: no two processes ever want the same one."""
    return blake2b("\n".join(texts).encode(), digest_size=8).hexdigest() + ".arrow"


class TokenTable:
    """Token ids (L,) of captions, each tokenised once; the empty prompt is always there."""

    def __init__(self, conditioner: Conditioner, captions: Iterable[str]) -> None:
        texts = list(dict.fromkeys(["", *captions]))
        parts = [
            conditioner.tokens(texts[start : start + PART]).int()
            for start in range(0, len(texts), PART)
        ]
        self._ids, self._row = torch.cat(parts), {text: row for row, text in enumerate(texts)}

    def __call__(self, captions: Sequence[str | None]) -> Tensor:
        """Ids (B, L); None is the empty prompt."""
        return self._ids[[self._row[caption or ""] for caption in captions]].long()
