"""The examples of stage 2, with every random choice keyed by (seed, step, slot)."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ldm.conditions.cache import TextCache, TokenTable
from ldm.conditions.condition import Captions, Condition
from ldm.conditions.conditioner import Conditioner
from ldm.config import Config
from ldm.core import keyed
from ldm.core.share import Share
from ldm.data.captions import all_captions
from ldm.data.order import Slot, subset
from ldm.models.network import CAPTION

Quantiles = Callable[[int, Sequence[int]], Tensor]  # (step, slots) → u (B,)


class Latents(Protocol):
    """Standardised latents of a data set, in any order."""

    @property
    def views(self) -> int: ...  # crops of each image
    @property
    def quarantine(self) -> Sequence[tuple[str, str]]: ...  # images without any, and why
    @property
    def statistics(self) -> tuple[Tensor, Tensor]: ...  # mean and deviation (C,) as encoded
    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def captions(self, i: int) -> tuple[str, ...]: ...
    def sample(
        self, indices: Sequence[int], views: Sequence[int], flips: Sequence[bool], noise: Tensor
    ) -> Tensor: ...


class Batch(NamedTuple):
    x0: Tensor  # (B, C, h, w)
    eps: Tensor  # (B, C, h, w)
    u: Tensor  # (B,) float64 in [0, 1), on the CPU: the quantiles of the times
    conditions: dict[str, Tensor]  # by name, (B, ...)

    def to(self, device: torch.device) -> "Batch":
        """With what the network sees on its device. Times stay: not every device has float64."""
        x0, eps = (t.to(device, non_blocking=True) for t in (self.x0, self.eps))
        told = {k: v.to(device, non_blocking=True) for k, v in self.conditions.items()}
        return Batch(x0, eps, self.u, told)


@dataclass(frozen=True)
class Examples:
    """Turns slots into batches; every random choice is keyed by (seed, step, slot)."""

    latents: Latents
    conditions: Mapping[str, Condition]
    quantiles: Quantiles
    seed: int
    flip: bool
    views: int

    def batch(self, slots: Sequence[Slot]) -> Batch:
        """One micro-batch, on the CPU."""
        seed, step = self.seed, slots[0].step
        places = [s.slot for s in slots]
        noise = keyed.example_normal(self.latents.shape, seed, step, places, "posterior")
        x0 = self.latents.sample(
            [s.index for s in slots],
            [keyed.integer(seed, "view", step, p, below=self.views) for p in places],
            [self.flip and keyed.uniform(seed, "flip", step, p) < 0.5 for p in places],
            noise,
        )
        eps = keyed.example_normal(self.latents.shape, seed, step, places, "noise")
        told = {
            name: condition.rows([self.key(name, slot) for slot in slots])
            for name, condition in self.conditions.items()
        }
        return Batch(x0, eps, self.quantiles(step, places), told)

    def key(self, name: str, slot: Slot) -> Hashable | None:
        """What an example is told at this slot, by one condition; None where it is dropped."""
        condition, key = self.conditions[name], (self.seed, name, slot.step, slot.slot)
        if keyed.uniform(*key, "dropped") < condition.dropout:
            return None
        return condition.key(
            self.latents, slot.index, lambda n: keyed.integer(*key, "choice", below=n)
        )

    def fixed(self, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        """`count` keyed examples for evaluation: (x0, conditions), the same at every call."""
        indices = subset(len(self.latents), count, self.seed)
        noise = [keyed.normal(self.latents.shape, self.seed, "fixed", i) for i in indices]
        x0 = self.latents.sample(
            indices, [0] * len(indices), [False] * len(indices), torch.stack(noise)
        )
        return x0, {
            name: condition.rows([condition.key(self.latents, i, lambda n: 0) for i in indices])
            for name, condition in self.conditions.items()
        }


def keyed_examples(
    config: Config,
    quantiles: Quantiles,
    latents: Mapping[str, Latents],
    conditioner: Conditioner,
    share: Share,
) -> dict[str, Examples]:
    """What each set is trained or validated with; every caption tokenised or encoded once."""
    captions = (text for c in latents.values() for choices in all_captions(c) for text in choices)
    table: TokenTable | TextCache
    cache, dtype = config.folder / "cache", config.conditioning.cache_dtype
    if conditioner.trainable:
        table = TokenTable.build(conditioner, captions, cache / "tokens", share)
    else:
        table = TextCache.build(conditioner, captions, cache / "text", share, dtype)
    conditions = {CAPTION: Captions(table, config.conditioning.dropout)}
    return {
        name: Examples(
            latents=cache,
            conditions=conditions,
            quantiles=quantiles,
            seed=config.seed,
            flip=config.data.flip,
            views=cache.views,
        )
        for name, cache in latents.items()
    }
