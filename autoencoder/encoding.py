"""Images to rows of the latent cache: decoded by workers, encoded in batches, written in shards."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Features, List, Value
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ldm.config import Config
from ldm.core import keyed
from ldm.data.example import Source
from ldm.data.pictures.bad import BadImage
from ldm.data.pixels import normalise, to_pixels
from ldm.ports.codec import Codec
from ldm.store.shards import Store


class Crops(Dataset):
    """Image i as its cached crops, uint8 (views, 3, R, R), or the reason why it has none."""

    def __init__(self, source: Source, config: Config, seed: int) -> None:
        self.source, self.data, self.seed = source, config.data, seed
        self.views = config.autoencoder.views if config.data.crop == "random" else 1

    def __getitem__(self, i: int) -> tuple[int, Tensor | str]:
        try:
            image = self.source.image(i)
        except BadImage as bad:
            return i, bad.reason
        crops = [
            to_pixels(
                image,
                self.data.resolution,
                self.data.crop,
                flip=False,
                generator=keyed.generator(self.seed, "cached crop", i, view),
            )
            for view in range(self.views)
        ]
        return i, torch.stack(crops)


class Encoder:
    """Writes shards of encoded crops."""

    def __init__(self, codec: Codec, shape: tuple[int, ...], config: Config, store: Store) -> None:
        self.codec, self.shape, self.store = codec, shape, store
        self.dtype = np.dtype(config.autoencoder.cache_dtype)
        self.batch = max(1, min(64, 2**22 // config.data.resolution**2 // shape[0]))
        self.workers = config.data.workers
        self.features = Features(
            name=Value("string"),
            reason=Value("string"),
            moments=List(Value(self.dtype.name), length=int(np.prod(shape))),
        )

    def write(
        self, crops: Crops, shards: dict[int, Path], size: int, title: str, quiet: bool
    ) -> None:
        """Encode shards of `size` images in batches that do not cross their ends; write each."""
        if not shards:
            return
        total = len(crops.source)
        rows = {k: range(k * size, min((k + 1) * size, total)) for k in shards}
        batches = [part for shard in rows.values() for part in _split(shard, self.batch)]
        loader = DataLoader(
            crops,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=_as_is,
            generator=torch.Generator(),  # a cache that is there must not change initial weights
        )
        images = sum(map(len, rows.values()))
        bar = tqdm(total=images, desc=title, unit="img", disable=quiet, smoothing=0.05)
        done: list[dict[str, Any]] = []
        shard = iter(shards.items())
        for batch in loader:
            done += self.encode(crops.source, batch)
            bar.update(len(batch))
            if done[-1]["index"] + 1 in (total, *(r.stop for r in rows.values())):
                _, path = next(shard)
                columns: dict[str, Any] = {k: [row[k] for row in done] for k in self.features}
                columns["moments"] = np.stack(columns["moments"])
                self.store.write(path, columns, self.features)
                done = []
        bar.close()

    @torch.inference_mode()
    def encode(self, source: Source, batch: list[tuple[int, Tensor | str]]) -> list[dict[str, Any]]:
        """Rows of a batch; an image that cannot be used keeps its place with the reason."""
        moments = {i: np.zeros(self.shape, self.dtype) for i, _ in batch}
        reasons = {i: pixels for i, pixels in batch if isinstance(pixels, str)}
        sound = [(i, pixels) for i, pixels in batch if isinstance(pixels, Tensor)]
        if sound:
            pixels = torch.stack([p for _, p in sound]).to(
                self.codec.module.device
            )  # (B, V, 3, R, R)
            sides = [pixels, pixels.flip(-1)][: self.shape[1]]
            flat = normalise(torch.stack(sides, dim=2).flatten(0, 2))
            encoded = torch.cat([self.codec.moments(x) for x in flat.split(self.batch)])
            with np.errstate(over="ignore"):  # what float16 cannot hold is quarantined below
                stored = encoded.float().cpu().numpy().astype(self.dtype)
            for (i, _), row in zip(sound, stored.reshape(-1, *self.shape), strict=True):
                if np.isfinite(row).all():
                    moments[i] = row
                else:
                    reasons[i] = f"its latents are not finite in {self.dtype.name}"
        return [
            {
                "index": i,
                "name": source.name(i),
                "reason": reasons.get(i),
                "moments": moments[i],
            }
            for i, _ in batch
        ]


def _as_is(batch: list[Any]) -> list[Any]:
    return batch


def _split(rows: range, size: int) -> list[list[int]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
