"""The network of a call: the U-Net under what it is told, guided."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ldm.diffusion.contract import Contract
from ldm.diffusion.guidance import cfg, perturbed
from ldm.diffusion.plane import Level, Network
from ldm.models.attention import perturbing_attention
from ldm.models.network import CAPTION
from ldm.models.networks import kind_of
from pipelines.calls.defaults import Guidance


class Told:
    """What a network is told; a callback may change it between two steps."""

    def __init__(
        self,
        positive: Tensor,
        negative: Tensor | None,
        scale: float,
        also: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        self.scale, self.also = scale, also  # guided or not, the same: (B, ...) by name
        self.also_twice = {name: torch.cat([rows, rows]) for name, rows in also.items()}
        self.tell(positive, negative)

    def tell(self, positive: Tensor, negative: Tensor | None) -> None:
        """Other contexts (B, L, D). One tensor each, as its projections are kept by identity."""
        self.positive, self.negative = positive, negative
        self.both = None if negative is None else torch.cat([negative, positive])


def guided(unet: Any, contract: Contract, told: Told, guidance: Guidance) -> Network:
    """The guided U-Net, float32 in and out.

    Conditional and unconditional are one pass of 2B images; without a negative context there
    is one of B.
    """

    ask = kind_of(unet).predict
    dtype = unet.dtype  # diffusers walks all modules for it: once a call, not once a step

    def predict(
        network: Any, x: Tensor, level: Level, context: Any, also: Mapping[str, Tensor] = told.also
    ) -> Tensor:
        label = contract.label(level).to(torch.float32).to(x.device)
        return ask(network, x.to(dtype), label, {**also, CAPTION: context}).to(x.dtype)

    def cond(x: Tensor, level: Level) -> Tensor:
        return predict(unet, x, level, told.positive)

    def uncond(x: Tensor, level: Level) -> Tensor:
        return predict(unet, x, level, told.negative)

    def pair(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        f_u, f_c = predict(unet, torch.cat([x, x]), level, told.both, told.also_twice).chunk(2)
        return f_c, f_u

    def scale(level: Level) -> float:
        return told.scale

    network: Network = cond
    if told.negative is not None:
        network = cfg(cond, uncond, scale, guidance.interval, guidance.rescale, pair)
    if guidance.pag_scale:
        weak = perturbing_attention(unet)

        def worse(x: Tensor, level: Level) -> Tensor:
            return predict(weak, x, level, told.positive)

        network = perturbed(network, cond, worse, guidance.pag_scale)
    return network
