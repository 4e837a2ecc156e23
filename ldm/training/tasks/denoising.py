"""What stage 2 minimises: the times that are drawn, and the loss at each."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ldm.config import DiffusionConfig
from ldm.core import keyed
from ldm.core.errors import UserError
from ldm.diffusion.learned import Learned, vlb_loss
from ldm.diffusion.loss import (
    TIME_SAMPLERS,
    WEIGHTINGS,
    Importance,
    denoising_loss,
    sobol,
    time_sampler,
)
from ldm.diffusion.plane import Network, fit
from ldm.diffusion.schedules import Schedule
from ldm.schedulers.spec import Spec
from ldm.settings.arguments import refuse_arguments
from ldm.training.examples import Batch
from ldm.training.latent_diffusion import bound
from ldm.training.tasks.task import Task

Losses = Callable[[Network, Batch], Tensor]  # → (B,)


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


class Times:
    """Which times are trained on: quantiles by key, and times from them as the config names it.

    A sampler with a memory is told the losses of a whole step, of all processes, in the order of
    their slots: so every process remembers the same, and as many as there are does not matter.
    Raises UserError for unknown names and arguments.
    """

    def __init__(
        self, config: DiffusionConfig, schedule: Schedule, seed: int, batch_size: int
    ) -> None:
        draw = _named("low_discrepancy", config.low_discrepancy, QUANTILES)
        self._draw = lambda step, slots: draw(seed, step, slots, batch_size)
        _named("time_sampling", config.time_sampling, TIME_SAMPLERS)
        self.schedule = schedule
        refuse_arguments(
            "diffusion.time_args", TIME_SAMPLERS[config.time_sampling], config.time_args
        )
        try:
            self.sampler = time_sampler(config.time_sampling, **config.time_args)
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


def objective(config: DiffusionConfig, spec: Spec, times: Times) -> Losses:
    """(network, batch) → losses (B,), under the weighting that the config names.

    With a learned schedule these are the ELBO's, and their gradient also reaches its curve. Raises
    UserError for an unknown weighting or argument, and for what does not go with that schedule.
    """
    schedule, prediction = spec.schedule, spec.prediction
    weighting = _weighting(config, schedule)

    def losses(network: Network, batch: Batch) -> Tensor:
        t = times(batch.u)
        x0, eps = batch.x0, batch.eps
        if isinstance(schedule, Learned):
            each = vlb_loss(network, schedule, prediction, x0, eps, t)
        else:
            each = denoising_loss(network, schedule, prediction, x0, eps, t, weighting)
        return times.weighted(t, each)

    return losses


class Denoising(Task):
    """Predicting what noise was added at drawn times, weighted as a DiffusionConfig says."""

    def __init__(self, config: DiffusionConfig, spec: Spec, seed: int, batch_size: int) -> None:
        self.spec, self.times = spec, Times(config, spec.schedule, seed, batch_size)
        self._losses = objective(config, spec, self.times)

    def __call__(self, network: nn.Module, batch: Batch) -> Tensor:
        return self._losses(bound(network, self.spec, batch.conditions), batch)

    @property
    def memory(self) -> dict[str, nn.Module]:
        return self.times.memory

    def remember(self, gather: Callable[[Tensor], Tensor]) -> None:
        self.times.update(gather)


def _weighting(config: DiffusionConfig, schedule: Schedule) -> Callable[..., Tensor] | None:
    weight = _named("weighting", config.weighting, WEIGHTINGS)
    if isinstance(schedule, Learned):
        wanted = {"weighting": "vlb", "time_sampling": "uniform", "learned_variance": False}
        for key, value in wanted.items():
            if (given := getattr(config, key)) != value:
                raise UserError(
                    f"diffusion.{key}={given} does not go with schedule=learned, which learns from "
                    f"the variance of the likelihood bound: set diffusion.{key}={value}"
                )
    if weight:
        refuse_arguments("diffusion.weighting_args", weight, config.weighting_args)
    weighting = partial(weight, **config.weighting_args) if weight else None
    try:
        if weighting is not None:
            weighting(schedule.level(torch.tensor([0.5], dtype=torch.float64)), schedule)
        elif config.weighting_args:
            raise TypeError(f"weighting {config.weighting} takes none")
    except TypeError as error:
        raise UserError(f"diffusion.weighting_args: {error}") from None
    return weighting


def _named(key: str, name: str, registry: Mapping[str, Any]) -> Any:
    if name not in registry:
        raise UserError(f"diffusion.{key}={name!r} is not one of {', '.join(registry)}")
    return registry[name]
