"""A model: everything that is trained, sampled, evaluated and published as one."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from ldm.conditions.condition import Encoding
from ldm.conditions.conditioner import Conditioner
from ldm.models.network import CAPTION
from ldm.ports.codec import Codec
from ldm.schedulers.spec import Spec

NAMES = {CAPTION: "text_encoder"}  # of the module that encodes a condition, where not the same


class Model(NamedTuple):
    """Its four parts, each behind its port."""

    codec: Codec
    conditions: Mapping[str, Encoding]  # by the names that the network is told them under
    network: Any  # a denoiser of some Kind
    process: Spec

    @property
    def text(self) -> Conditioner:
        """What makes a prompt, or a class name, of what the network attends to."""
        text = self.conditions[CAPTION]
        assert isinstance(text, Conditioner)
        return text

    @property
    def trained(self) -> dict[str, nn.Module]:
        """What stage 2 may train, by the names in its checkpoints."""
        encoders = {NAMES.get(k, k): c.encoder for k, c in self.conditions.items()}
        return {"unet": self.network, **{k: m for k, m in encoders.items() if m is not None}}

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that have weights."""
        network, *encoders = self.trained.items()
        return dict([network, ("vae", self.codec.module), *encoders])

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
