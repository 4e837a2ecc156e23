"""What stage 2 trains: the model, its examples with every random choice keyed, and its loss."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ldm import keyed
from ldm.conditioning import Conditioner
from ldm.config import DiffusionConfig, TrainConfig
from ldm.data.order import Slot
from ldm.diffusion.loss import TIME_SAMPLERS, WEIGHTINGS, Network, denoising_loss
from ldm.diffusion.schedules import Schedule
from ldm.errors import UserError
from ldm.scheduler_config import Spec


class LatentDiffusion(nn.Module):
    """The U-Net and, where it is trained along, the text encoder: one module for Accelerate."""

    def __init__(
        self, unet: UNet2DConditionModel, conditioner: Conditioner, config: TrainConfig
    ) -> None:
        super().__init__()
        self.unet = unet
        self.conditioner = conditioner
        if conditioner.trainable:
            self.text_encoder = conditioner.encoder

        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if config.compile:
            unet.compile()  # in place: the names of the weights stay

    def forward(self, x: Tensor, label: Tensor, condition: Tensor) -> Tensor:
        """x (B, C, h, w); label (B,); condition: token ids (B, L) or a context (B, L, D)."""
        if not condition.is_floating_point():
            condition = self.conditioner.encode(condition)
        return self.unet(x, label, encoder_hidden_states=condition).sample


class Latents(Protocol):
    """Standardised latents of a data set, in any order."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...
    def captions(self, i: int) -> tuple[str, ...]: ...
    def sample(
        self, indices: Sequence[int], views: Sequence[int], flips: Sequence[bool], noise: Tensor
    ) -> Tensor: ...


class Batch(NamedTuple):
    x0: Tensor  # (B, C, h, w)
    eps: Tensor  # (B, C, h, w)
    t: Tensor  # (B,) float64
    condition: Tensor  # (B, L) ids or (B, L, D)

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(x.to(device, non_blocking=True) for x in self))


@dataclass(frozen=True)
class Examples:
    """Turns slots into batches; every random choice is keyed by (seed, step, slot)."""

    latents: Latents
    condition: Callable[[Sequence[str | None]], Tensor]  # captions → ids or cached context
    times: Callable[[int, Sequence[int]], Tensor]  # (step, slots) → t (B,)
    seed: int
    flip: bool
    views: int
    dropout: float  # of captions

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
        captions = [self.caption(s) for s in slots]
        return Batch(x0, eps, self.times(step, places), self.condition(captions))

    def caption(self, slot: Slot) -> str | None:
        """The caption that an example is trained with at this slot; None where it is dropped."""
        choices = self.latents.captions(slot.index)
        key = (self.seed, "caption", slot.step, slot.slot)
        if not choices or keyed.uniform(*key, "dropped") < self.dropout:
            return None
        return choices[keyed.integer(*key, "choice", below=len(choices))]

    def fixed(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` examples for evaluation: (x0, condition), the same at every call."""
        indices = list(range(min(count, len(self.latents))))
        noise = torch.stack(
            [keyed.normal(self.latents.shape, self.seed, "fixed", i) for i in indices]
        )
        x0 = self.latents.sample(indices, [0] * len(indices), [False] * len(indices), noise)
        choices = [self.latents.captions(i) for i in indices]
        return x0, self.condition([c[0] if c else None for c in choices])


def bound(model: nn.Module, spec: Spec, condition: Tensor) -> Network:
    """The network (x, level) → F of a LatentDiffusion under `condition`."""
    return lambda x, level: model(x, spec.schedule.label(level.t), condition)


def time_sampler(
    config: DiffusionConfig, schedule: Schedule, seed: int, batch_size: int
) -> Callable[[int, Sequence[int]], Tensor]:
    """(step, slots) → times (B,), by the distribution that the config names."""
    quantile = _named("time_sampling", config.time_sampling, TIME_SAMPLERS)

    def times(step: int, slots: Sequence[int]) -> Tensor:
        if config.stratified:
            u = keyed.example_stratified(seed, step, slots, batch_size, "time")
        else:
            u = keyed.example_uniform(seed, step, slots, "time")
        return quantile(u, schedule, **config.time_args)

    return times


def objective(config: DiffusionConfig, spec: Spec) -> Callable[[Network, Batch], Tensor]:
    """(network, batch) → losses (B,), under the weighting that the config names."""
    weight = _named("weighting", config.weighting, WEIGHTINGS)
    weighting = partial(weight, **config.weighting_args) if weight else None

    def losses(network: Network, batch: Batch) -> Tensor:
        x0, eps, t, _ = batch
        return denoising_loss(network, spec.schedule, spec.prediction, x0, eps, t, weighting)

    return losses


def _named(key: str, name: str, registry: Mapping[str, Any]) -> Any:
    if name not in registry:
        raise UserError(f"diffusion.{key}={name!r} is not one of {', '.join(registry)}")
    return registry[name]


class TokenTable:
    """Token ids (L,) of captions, each tokenised once; the empty prompt is always there."""

    def __init__(self, conditioner: Conditioner, captions: Iterable[str]) -> None:
        texts = list(dict.fromkeys(["", *captions]))
        self._ids = dict(zip(texts, conditioner.tokens(texts), strict=True))

    def __call__(self, captions: Sequence[str | None]) -> Tensor:
        """Ids (B, L); None is the empty prompt."""
        return torch.stack([self._ids[caption or ""] for caption in captions])
