"""What stage 2 trains: the U-Net and what is trained along with it, as one module."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from ldm.config import TrainConfig
from ldm.diffusion.plane import Network
from ldm.models.network import CAPTION
from ldm.models.networks import predict
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec


class LatentDiffusion(nn.Module):
    """The U-Net and, where they are trained along, the text encoder and the schedule.

    One module for Accelerate: gradients of all its parameters are averaged over the processes.
    """

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.unet = cast(Any, model.network)
        if model.text.trainable:
            self.text_encoder = model.text.encoder
        schedule = model.process.schedule
        self.curve: list[nn.Parameter] = []  # of a learned schedule
        if isinstance(schedule, nn.Module):
            self.schedule = schedule
            self.curve = list(schedule.parameters())

        if config.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        if config.compile:
            self.unet.compile()  # in place: the names of the weights stay
        if device is not None:
            # on a CPU bf16 steps take half the time of fused attention's
            if device.type == "cpu" and hasattr(self.unet, "set_attn_processor"):
                self.unet.set_attn_processor(AttnProcessor())
            self.to(device)

    def forward(self, x: Tensor, label: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """x (B, C, h, w); label (B,); the caption as token ids (B, L) or a context (B, L, D)."""
        caption = conditions[CAPTION]
        if not caption.is_floating_point():
            caption = self.model.text.encode(caption)
        return predict(self.unet, x, label, {**conditions, CAPTION: caption})


def bound(model: nn.Module, spec: Spec, conditions: Mapping[str, Tensor]) -> Network:
    """The network (x, level) → F of a LatentDiffusion that is told `conditions`."""

    return spec.contract.network(lambda x, label: model(x, label, conditions))
