"""What stage 2 minimises: the loss at the times that are drawn."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ldm.config import DiffusionConfig
from ldm.core.errors import UserError
from ldm.diffusion.learned import Learned, vlb_loss
from ldm.diffusion.loss import WEIGHTINGS, denoising_loss
from ldm.diffusion.plane import Network
from ldm.diffusion.schedules import Schedule
from ldm.schedulers.spec import Spec
from ldm.settings.arguments import refuse_arguments
from ldm.training.examples import Batch
from ldm.training.latent_diffusion import bound
from ldm.training.tasks.task import Task
from ldm.training.tasks.times import Times, named

Losses = Callable[[Network, Batch], Tensor]  # → (B,)


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
    weight = named("weighting", config.weighting, WEIGHTINGS)
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
