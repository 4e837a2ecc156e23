"""A model: everything that is trained, sampled, evaluated and published as one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from ldm.conditions.conditioner import Conditioner
from ldm.models.network import CAPTION
from ldm.ports.codec import Codec
from ldm.schedulers.spec import Spec


class Model(NamedTuple):
    """Its four parts, each behind its port."""

    codec: Codec
    conditions: Mapping[str, Conditioner]  # by the names that the network is told them under
    network: Any  # a denoiser of some Kind
    process: Spec

    @property
    def text(self) -> Conditioner:
        """What makes a prompt, or a class name, of what the network attends to."""
        return self.conditions[CAPTION]

    @property
    def trained(self) -> dict[str, nn.Module]:
        """What stage 2 may train, by the names in its checkpoints."""
        return {"unet": self.network, "text_encoder": self.text.encoder}

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that have weights."""
        return {"unet": self.network, "vae": self.codec.module, "text_encoder": self.text.encoder}

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    def to(self, device: torch.device) -> "Model":
        """Itself, with its modules there."""
        for module in self.modules.values():
            module.to(device)
        return self

    def telling(self, text: Conditioner) -> "Model":
        """With another text encoder or tokenizer."""
        return self._replace(conditions={**self.conditions, CAPTION: text})
