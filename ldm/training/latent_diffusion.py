"""What stage 2 trains: the U-Net and what is trained along with it, as one module."""

from typing import Any, cast

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from ldm.conditions.conditioner import Conditioner
from ldm.config import TrainConfig
from ldm.diffusion.plane import Level, Network
from ldm.diffusion.schedules import Schedule
from ldm.models.networks import predict
from ldm.schedulers.spec import Spec


class LatentDiffusion(nn.Module):
    """The U-Net and, where they are trained along, the text encoder and the schedule.

    One module for Accelerate: gradients of all its parameters are averaged over the processes.
    """

    def __init__(
        self,
        unet: nn.Module,
        conditioner: Conditioner,
        config: TrainConfig,
        schedule: Schedule,
        device: torch.device | None = None,
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
        if device is not None:
            if device.type == "cpu":  # where bf16 steps take half the time of fused attention's
                self.unet.set_attn_processor(AttnProcessor())
            self.to(device)

    @property
    def weights(self) -> list[nn.Parameter]:
        """The parameters of the networks: all but the schedule's."""
        apart = {id(p) for p in self.curve}
        return [p for p in self.parameters() if id(p) not in apart]

    def forward(self, x: Tensor, label: Tensor, condition: Tensor) -> Tensor:
        """x (B, C, h, w); label (B,); condition: token ids (B, L) or a context (B, L, D)."""
        if not condition.is_floating_point():
            condition = self.conditioner.encode(condition)
        return predict(self.unet, x, label, condition)


def bound(model: nn.Module, spec: Spec, condition: Tensor) -> Network:
    """The network (x, level) → F of a LatentDiffusion under `condition`."""

    def network(x: Tensor, level: Level) -> Tensor:
        label = spec.schedule.label(level.t).to(torch.float32)  # as the U-Net itself casts it
        return model(x, label.to(x.device), condition)

    return network
