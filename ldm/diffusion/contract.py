"""What a network and a path agree on: what it is given and told, and what its answer means."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ldm.diffusion.learned import Learned
from ldm.diffusion.plane import Label, Level, Network, Prediction
from ldm.diffusion.schedules import VE, Discrete, Flow, Schedule, positions


@dataclass(frozen=True)
class Contract:
    """The prediction, with c_in and the direction of F, and the `label` that tells of a level.

    EDM's preconditioning (Karras et al. 2022, eq. 7) in one value; there the label is c_noise.
    """

    prediction: Prediction
    label: Label

    @classmethod
    def of(cls, schedule: Schedule, prediction: Prediction) -> "Contract":
        """With the labels that networks on such a schedule are known to be told."""
        return cls(prediction, partial(known_label, schedule))

    def network(self, function: Callable[[Tensor, Tensor], Tensor]) -> Network:
        """The network (x, level) → F of a function (x, label) → F; labels are float32."""

        def network(x: Tensor, level: Level) -> Tensor:
            return function(x, self.label(level).to(torch.float32).to(x.device))

        return network


def known_label(schedule: Schedule, level: Level) -> Tensor:
    """A table's index, 1000·σ (SD3), ¼·log σ (EDM); else as in a table of 1000, evenly in time.

    Of a level's `t` alone, so that a grid may tell another level than that of x. A learned
    schedule's are even in log-SNR: a network keeps its sense of a level while the curve moves.
    """
    t = level.t
    match schedule:
        case Discrete():
            index = (t * positions(schedule) - 1).clamp(min=0)
            return torch.where((index - index.round()).abs() < 1e-6, index.round(), index)
        case Flow():
            return 1000 * schedule.level(t).sigma
        case VE():
            return schedule.level(t).sigma.log() / 4
        case Learned():  # where the network is optimal its loss is stationary in what it is told
            t = schedule.progress(t)[0].detach()
    return positions(schedule) * t - 1
