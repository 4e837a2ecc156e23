"""Which denoisers there are, by the name that a config has for them."""

from typing import Any

from torch import Tensor

from ldm.config import Config
from ldm.core.errors import UserError
from ldm.models.network import Kind, Shape, Told
from ldm.models.transformer import TRANSFORMER
from ldm.models.unet import UNET

KINDS: dict[str, Kind] = {"unet": UNET, "transformer": TRANSFORMER}


def configured_network(config: Config, latents: tuple[int, int, int], context_dim: int) -> Any:
    """The denoiser that `network.kind` names, for latents (C, h, w) and a context of that width.

    Raises UserError for an unknown kind or argument, and for what does not fit.
    """
    name = config.network.get("kind", "unet")
    if name not in KINDS:
        raise UserError(f"network.kind={name} is not one of {', '.join(KINDS)}")
    if name != "unet" and config.unet.get("init"):
        raise UserError(
            f"unet.init={config.unet['init']} is a U-Net, and network.kind={name} trains another "
            "network: set unet.init=null"
        )
    outputs = latents[0] * (2 if config.diffusion.learned_variance else 1)
    return KINDS[name].build(config, Shape(latents, outputs, context_dim))


def kind_of(network: Any) -> Kind:
    """The kind that a network, or a view of one, is of; raises UserError where it is of none."""
    network = getattr(network, "_orig_mod", network)  # as torch.compile leaves it
    for kind in KINDS.values():
        if isinstance(network, kind.model):
            return kind
    known = ", ".join(kind.model.__name__ for kind in KINDS.values())
    raise UserError(f"a {type(network).__name__} is no denoiser that is known here: {known}")


def predict(network: Any, x: Tensor, label: Tensor, told: Told) -> Tensor:
    """F (B, C, h, w) of x at labels (B,), under what the network is told, in its own dtype."""
    return kind_of(network).predict(network, x, label, told)
