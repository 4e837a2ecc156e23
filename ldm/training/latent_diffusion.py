"""What stage 2 trains: the model, and its examples with every random choice keyed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from diffusers.models import UNet2DConditionModel
from torch import Tensor, nn

from ldm.conditions.conditioner import Conditioner
from ldm.config import TrainConfig
from ldm.core import keyed
from ldm.data.order import Slot, subset
from ldm.diffusion.plane import Level, Network
from ldm.diffusion.schedules import Schedule
from ldm.schedulers.spec import Spec

PART = 4096  # captions tokenised at once: a tokenizer keeps far more of each than its ids


class LatentDiffusion(nn.Module):
    """The U-Net and, where they are trained along, the text encoder and the schedule.

    One module for Accelerate: gradients of all its parameters are averaged over the processes.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        conditioner: Conditioner,
        config: TrainConfig,
        schedule: Schedule,
    ) -> None:
        super().__init__()
        self.unet = cast(Any, unet)
        self.conditioner = conditioner
        if conditioner.trainable:
            self.text_encoder = conditioner.encoder
        self.curve: list[nn.Parameter] = []  # of a learned schedule
        if isinstance(schedule, nn.Module):
            self.schedule = schedule
            self.curve = list(schedule.parameters())

        if config.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        if config.compile:
            self.unet.compile()  # in place: the names of the weights stay

    @property
    def weights(self) -> list[nn.Parameter]:
        """The parameters of the networks: all but the schedule's."""
        apart = {id(p) for p in self.curve}
        return [p for p in self.parameters() if id(p) not in apart]

    def forward(self, x: Tensor, label: Tensor, condition: Tensor) -> Tensor:
        """x (B, C, h, w); label (B,); condition: token ids (B, L) or a context (B, L, D)."""
        if not condition.is_floating_point():
            condition = self.conditioner.encode(condition)
        return self.unet(x, label, encoder_hidden_states=condition).sample


class Latents(Protocol):
    """Standardised latents of a data set, in any order."""

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
    condition: Tensor  # (B, L) ids or (B, L, D)

    def to(self, device: torch.device) -> "Batch":
        """With what the network sees on its device. Times stay: not every device has float64."""
        seen = {k: v.to(device, non_blocking=True) for k, v in self._asdict().items() if k != "u"}
        return self._replace(**seen)


@dataclass(frozen=True)
class Examples:
    """Turns slots into batches; every random choice is keyed by (seed, step, slot)."""

    latents: Latents
    condition: Callable[[Sequence[str | None]], Tensor]  # captions → ids or cached context
    quantiles: Callable[[int, Sequence[int]], Tensor]  # (step, slots) → u (B,)
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
        return Batch(x0, eps, self.quantiles(step, places), self.condition(captions))

    def caption(self, slot: Slot) -> str | None:
        """The caption that an example is trained with at this slot; None where it is dropped."""
        choices = self.latents.captions(slot.index)
        key = (self.seed, "caption", slot.step, slot.slot)
        if not choices or keyed.uniform(*key, "dropped") < self.dropout:
            return None
        return choices[keyed.integer(*key, "choice", below=len(choices))]

    def fixed(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` keyed examples for evaluation: (x0, condition), the same at every call."""
        indices = subset(len(self.latents), count, self.seed)
        noise = [keyed.normal(self.latents.shape, self.seed, "fixed", i) for i in indices]
        x0 = self.latents.sample(
            indices, [0] * len(indices), [False] * len(indices), torch.stack(noise)
        )
        choices = [self.latents.captions(i) for i in indices]
        return x0, self.condition([c[0] if c else None for c in choices])


def bound(model: nn.Module, spec: Spec, condition: Tensor) -> Network:
    """The network (x, level) → F of a LatentDiffusion under `condition`."""

    def network(x: Tensor, level: Level) -> Tensor:
        label = spec.schedule.label(level.t).to(torch.float32)  # as the U-Net itself casts it
        return model(x, label.to(x.device), condition)

    return network


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
