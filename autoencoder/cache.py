"""The latent cache: every image encoded once, as a posterior that can be sampled forever.

A row holds mean and log-variance of each cached crop and of its mirror image, so what training
sees is what encoding the pixels in the loop would have given. Its key names all that the rows
depend on; see ldm/store/shards.py for what happens when the key changes or encoding is killed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from autoencoder.encoding import Crops, Encoder
from ldm.config import Config
from ldm.core.errors import UserError
from ldm.core.fingerprint import fingerprint
from ldm.core.share import Share
from ldm.core.sums import read_sealed, write_sealed
from ldm.core.text import say
from ldm.data.example import Source
from ldm.data.quarantine import Quarantine
from ldm.ports.codec import Codec
from ldm.store.shards import Store, TensorColumn, open_shards

FIGURES, KEY = "statistics.json", "of"  # the rows that they are of, among them
SHARD = 256  # images per file: what an interrupted encoding loses at most
STATISTICS = "statistics of the latents"  # among the facts of a checkpoint


class Statistics(NamedTuple):
    """Mean and standard deviation (C,) of the latents, as the autoencoder encodes them."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, figures: Mapping[str, Sequence[float]]) -> "Statistics":
        """From what `figures` gave, exactly."""
        return cls(*(torch.tensor(figures[k], dtype=torch.float64) for k in cls._fields))

    def figures(self) -> dict[str, list[float]]:
        """As JSON holds them."""
        return {name: value.tolist() for name, value in self._asdict().items()}


class LatentCache:
    """The latents of a source of images, in the order of its sound images.

    `sample` gives standardised latents; `statistics` are what the codec takes in to decode them.
    """

    def __init__(
        self,
        shards: Sequence[pa.Table],
        shape: tuple[int, ...],
        source: Source,
        statistics: Statistics | None = None,
    ) -> None:
        views, mirrors, moments, height, width = shape
        self.shape = (moments // 2, height, width)
        self._moments = TensorColumn(shards, "moments", shape)
        self._source = source
        reasons = [chunk for shard in shards for chunk in shard.column("reason").chunks]
        reason = pa.chunked_array(reasons, pa.string())
        sound = reason.is_null().to_numpy()
        self._row = np.flatnonzero(sound)  # of each entry
        self.quarantine = [
            (source.name(int(row)), reason[row].as_py()) for row in np.flatnonzero(~sound)
        ]
        self.views = views
        self.mirrored = mirrors == 2
        self.statistics = self._measure() if statistics is None else statistics

    @classmethod
    def build(
        cls,
        codec: Codec,
        source: Source,
        config: Config,
        folder: Path,
        seed: int,
        device: torch.device | str,
        share: Share,
        statistics: Statistics | None = None,
        title: str = "encoding",
    ) -> "LatentCache":
        """Encode what `folder` lacks of `source` and open it; every process takes its share.

        A validation set is given the `statistics` of its training set, and a run that is resumed
        those that it began with. Prints why where older rows had to go. Raises UserError where more
        than 1 % of the images give no finite latents.
        """
        crops = Crops(source, config, seed)
        channels, height, width = codec.shape(config.data.resolution)
        shape = (crops.views, 2 if config.data.flip else 1, 2 * channels, height, width)
        key = {
            "autoencoder": fingerprint(codec.module),
            "resolution": config.data.resolution,
            "crop": f"random, seed {seed}" if config.data.crop == "random" else config.data.crop,
            "views": crops.views,
            "flip": config.data.flip,
            "dtype": config.autoencoder.cache_dtype,
            "images": source.image_fingerprint,
        }
        store = Store(folder, key)
        if share.main and (changed := store.settle()):
            say(f"{title}: the latents in {folder} are stale and are made again: {changed}")
        share.wait()

        paths = [folder / f"{k:05d}.arrow" for k in range(-(-len(source) // SHARD))]
        mine = share.mine(range(len(paths)))
        whole = set(store.whole(paths[k] for k in mine))
        missing = {k: paths[k] for k in mine if paths[k] not in whole}
        codec.module.to(device)
        encoder = Encoder(codec, shape, config, store)
        encoder.write(crops, missing, SHARD, title, quiet=not share.main)
        share.wait()

        if not config.autoencoder.standardize:
            statistics = Statistics(*codec.nominal())
        elif statistics is None:
            statistics = _measured(store)
        shards = open_shards(paths)
        if (rows := sum(map(len, shards))) != len(source):  # of an older version, without sums
            raise UserError(
                f"{folder} has {rows} rows for {len(source)} images: remove it to encode them anew"
            )
        cache = cls(shards, shape, source, statistics)
        quarantine = Quarantine(folder, len(source), cache.quarantine)
        if share.main:
            quarantine.write()
            if statistics is None:
                figures = cache.statistics.figures()
                write_sealed(folder / FIGURES, {**figures, KEY: store.name})
        more = ", or set autoencoder.cache_dtype=float32" if encoder.dtype == np.float16 else ""
        quarantine.refuse_many("give no latents", f"repair or remove them{more}")
        return cache

    def __len__(self) -> int:
        return len(self._row)

    def captions(self, i: int) -> tuple[str, ...]:
        return self._source.captions(int(self._row[i]))

    def name(self, i: int) -> str:
        return self._source.name(int(self._row[i]))

    def sample(
        self, indices: Sequence[int], views: Sequence[int], flips: Sequence[bool], noise: Tensor
    ) -> Tensor:
        """Standardised latents (B, C, h, w) on the noise's device: mean + std · noise, normalised.

        `views` and `flips` say which cached crop, and whether it is the mirrored one.
        """
        posterior = self._moments.gather(self._row[list(indices)]).float()
        which = torch.arange(len(indices))
        mirror = torch.tensor([int(f) for f in flips]) if self.mirrored else 0 * which
        mean, logvar = (
            posterior[which, torch.tensor(views), mirror].to(noise.device).chunk(2, dim=1)
        )
        latents = mean + (0.5 * logvar).exp() * noise
        return (latents - _plane(self.statistics.mean, noise)) / _plane(self.statistics.std, noise)

    def _measure(self) -> Statistics:
        """Moments of posterior samples over all entries: E[μ], and E[μ²] + E[σ²] − E[μ]²."""
        channels = self.shape[0]
        first, second, count = np.zeros(channels), np.zeros(channels), 0
        sound = np.zeros(len(self._moments), dtype=bool)
        sound[self._row] = True
        start = 0
        for block in self._moments.blocks():
            for part in np.array_split(block, max(1, len(block) // SHARD)):
                kept = part[sound[start : start + len(part)]].astype(np.float64)
                start += len(part)
                mean, logvar = kept[:, :, :, :channels], kept[:, :, :, channels:]
                axes = (0, 1, 2, 4, 5)
                first += mean.sum(axes)
                second += (mean**2 + np.exp(logvar)).sum(axes)
                count += mean.size // channels
        mean_over_all = first / max(count, 1)
        variance = np.maximum(second / max(count, 1) - mean_over_all**2, 0)
        return Statistics(torch.from_numpy(mean_over_all), torch.from_numpy(np.sqrt(variance)))


def cached_latents(
    config: Config,
    codec: Codec,
    sources: dict[str, Source],
    share: Share,
    known: dict[str, list[float]] | None,
) -> dict[str, LatentCache]:
    """The latents of both sets; `codec` is left standardised, so that it decodes them.

    `known` are the statistics that a resumed run began with: images that have joined its data since
    must not move the latents under a U-Net that has learned them.
    """
    caches: dict[str, LatentCache] = {}
    statistics = Statistics.of(known) if known else None
    for name in ("train", "validation"):
        caches[name] = LatentCache.build(
            codec,
            sources[name],
            config,
            config.folder / "cache" / name,
            config.seed,
            codec.module.device,
            share,
            caches["train"].statistics if caches else statistics,
            title=f"encoding the {name} set",
        )
    if config.autoencoder.standardize:
        codec.standardize(*caches["train"].statistics)
    return caches


def _measured(store: Store) -> Statistics | None:
    """What was measured when the rows of this key were first complete, if it is what it was."""
    try:
        figures = read_sealed(store.folder / FIGURES)
        return Statistics.of(figures) if figures[KEY] == store.name else None
    except (OSError, ValueError, KeyError):
        return None  # of an older version, or damaged: the rows give the same again


def _plane(channels: Tensor, like: Tensor) -> Tensor:
    return channels.to(like.device, like.dtype)[:, None, None]
