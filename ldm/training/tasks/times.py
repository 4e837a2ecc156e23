"""Which times are trained on: even in a run, and where the loss was large."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ldm.config import DiffusionConfig
from ldm.core import keyed
from ldm.core.errors import UserError
from ldm.diffusion import loss
from ldm.diffusion.plane import fit
from ldm.diffusion.schedules import Schedule, interpolate, snap
from ldm.settings.arguments import refuse_arguments


def sobol(index: Tensor, shift: float = 0.0) -> Tensor:
    """Sobol's sequence in one dimension: u (B,) in [0, 1) of the examples `index` (B,) of a run.

    The mirrored bits of the index, rotated by a random `shift`: any 2^k examples in a row fall
    into 2^k equal strata, within a batch and over batches.
    """
    bits = torch.arange(52, device=index.device)
    mirrored = ((index.long()[:, None] >> bits) & 1) * 0.5 ** (bits.double() + 1)
    return (mirrored.sum(1) + shift) % 1


def _independent(seed: int, step: int, slots: Sequence[int], batch_size: int) -> Tensor:
    return keyed.example_uniform(seed, step, slots, "time")


def _stratified(seed: int, step: int, slots: Sequence[int], batch_size: int) -> Tensor:
    return keyed.example_stratified(seed, step, slots, batch_size, "time")


def _sobol(seed: int, step: int, slots: Sequence[int], batch_size: int) -> Tensor:
    return sobol(step * batch_size + torch.tensor(list(slots)), keyed.uniform(seed, "sobol"))


QUANTILES: dict[str, Callable[[int, int, Sequence[int], int], Tensor]] = {
    "none": _independent,
    "stratified": _stratified,
    "sobol": _sobol,
}


class Importance(nn.Module):
    """Times where the loss was large: p ∝ √E[L²] of the last losses in each of `bins` equal spans.

    Improved DDPM (Nichol & Dhariwal 2021, section 3.3). Uniform until every bin has its history.
    Feed it with `update`, multiply losses by `weight` to leave their mean unbiased, and keep its
    state in checkpoints.
    """

    losses: Tensor

    def __init__(self, bins: int = 50, history: int = 10, uniform: float = 0.01) -> None:
        super().__init__()
        unknown = torch.full((bins, history), math.nan, dtype=torch.float64)
        self.register_buffer("losses", unknown)
        self.uniform = uniform

    def _share(self) -> Tensor:
        root = self.losses.square().mean(1).sqrt()
        if not root.isfinite().all() or root.sum() == 0:
            root = torch.ones_like(root)
        return torch.lerp(root / root.sum(), torch.ones_like(root) / len(root), self.uniform)

    def _bin(self, t: Tensor) -> Tensor:
        return ((t.cpu() * len(self.losses) - 1e-6).ceil().long() - 1).clamp(0)

    def forward(self, u: Tensor, schedule: Schedule) -> Tensor:
        edges = torch.linspace(0, 1, len(self.losses) + 1, dtype=torch.float64)
        reached = torch.cat([edges[:1], self._share().cumsum(0)])
        return snap(schedule, interpolate(u, reached.to(u.device), edges.to(u.device)))

    def weight(self, t: Tensor) -> Tensor:
        """Uniform density over this one's, at t (B,)."""
        return (1 / (self._share() * len(self.losses)))[self._bin(t)].to(t.device)

    def update(self, t: Tensor, loss: Tensor) -> None:
        """Remember the losses (B,) at times t (B,)."""
        for i, value in zip(self._bin(t).tolist(), loss.tolist(), strict=True):
            self.losses[i] = torch.cat([self.losses[i, 1:], self.losses.new_tensor([value])])


TIME_SAMPLERS: dict[str, loss.TimeSampler | type[Importance]] = loss.TIME_SAMPLERS | {
    "importance": Importance
}


class Times:
    """Which times are trained on: quantiles by key, and times from them as the config names it.

    A sampler with a memory is told the losses of a whole step, of all processes, in the order of
    their slots: so every process remembers the same, and as many as there are does not matter.
    Raises UserError for unknown names and arguments.
    """

    def __init__(
        self, config: DiffusionConfig, schedule: Schedule, seed: int, batch_size: int
    ) -> None:
        draw = named("low_discrepancy", config.low_discrepancy, QUANTILES)
        self._draw = lambda step, slots: draw(seed, step, slots, batch_size)
        sampler = named("time_sampling", config.time_sampling, TIME_SAMPLERS)
        self.schedule, given = schedule, config.time_args
        refuse_arguments("diffusion.time_args", sampler, given)
        try:
            self.sampler: Callable[[Tensor, Schedule], Tensor] = (
                sampler(**given) if isinstance(sampler, type) else partial(sampler, **given)
            )
            self(torch.tensor([0.5], dtype=torch.float64))
        except TypeError as error:
            raise UserError(f"diffusion.time_args: {error}") from None
        self._seen: list[tuple[Tensor, Tensor]] = []  # t, loss of each micro-batch of this step

    def quantiles(self, step: int, slots: Sequence[int]) -> Tensor:
        """u (B,) in [0, 1) of the examples at `slots` of one step; asks no memory."""
        return self._draw(step, slots)

    def __call__(self, u: Tensor) -> Tensor:
        """t (B,)."""
        return self.sampler(u, self.schedule)

    @property
    def memory(self) -> dict[str, nn.Module]:
        """What a checkpoint must hold of it."""
        return {"times": self.sampler} if isinstance(self.sampler, nn.Module) else {}

    def weighted(self, t: Tensor, losses: Tensor) -> Tensor:
        """Losses (B,) whose mean is that of uniform times; noted for `update`."""
        if not isinstance(self.sampler, Importance):
            return losses
        self._seen.append((t, losses.detach()))
        return fit(self.sampler.weight(t), losses) * losses

    def update(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Remember the losses of this step; `gather` is that of the Run."""
        if isinstance(self.sampler, Importance):
            seen = [torch.stack([t, losses.cpu().to(t)]) for t, losses in self._seen]
            everyones = gather(torch.stack(seen)[None])  # (processes, micro-batches, 2, b)
            t, losses = everyones.permute(2, 1, 0, 3).flatten(1)
            self.sampler.update(t, losses)
            self._seen.clear()


def named(key: str, name: str, registry: Mapping[str, Any]) -> Any:
    """The entry of a registry that the config asks for; raises UserError where it has none."""
    if name not in registry:
        raise UserError(f"diffusion.{key}={name!r} is not one of {', '.join(registry)}")
    return registry[name]
