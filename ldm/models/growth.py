"""A trained U-Net made deeper: it begins as the same function and has more to learn with."""

import re
from collections.abc import Sequence

import torch
from diffusers.models import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from ldm.core.errors import UserError

_LAYER = re.compile(r"(down|up)_blocks\.(\d+)\.(?:resnets|attentions)\.(\d+)")
_BLOCKS = {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}


def grown(
    unet: UNet2DConditionModel, layers_per_block: int | Sequence[int]
) -> UNet2DConditionModel:
    """The same function with `layers_per_block` layers on each scale, finest first.

    A new layer adds nothing yet: its last projection is zero (Net2Net's deeper operator, Chen et
    al. 2016, section 2.3, in residual form), the others as at birth. Raises UserError where a
    scale would shrink, and for blocks that it does not know.
    """
    scales = len(unet.config["block_out_channels"])
    before, after = (
        _per_scale(layers, scales) for layers in (unet.config["layers_per_block"], layers_per_block)
    )
    if len(after) != scales or any(
        not isinstance(new, int) or new < old for new, old in zip(after, before, strict=False)
    ):
        raise UserError(
            f"unet.layers_per_block={list(after)}: a trained U-Net can only grow, and this one has "
            f"{list(before)}"
        )
    types = (*unet.config["down_block_types"], *unet.config["up_block_types"])
    if unknown := sorted(set(types) - _BLOCKS):
        raise UserError(
            f"a U-Net with {unknown[0]} cannot grow here: leave out unet.layers_per_block"
        )
    deeper = UNet2DConditionModel.from_config(dict(unet.config) | {"layers_per_block": after})
    trained = {_place(name, before, after): tensor for name, tensor in unet.state_dict().items()}
    with torch.no_grad():
        for name, module in deeper.named_modules():
            if _LAYER.fullmatch(name) and not any(key.startswith(f"{name}.") for key in trained):
                _silence(module)
    missing, unexpected = deeper.load_state_dict(trained, strict=False)
    assert not unexpected and all(_LAYER.match(name) for name in missing)
    return deeper


def _per_scale(layers: int | Sequence[int], scales: int) -> tuple[int, ...]:
    return (layers,) * scales if isinstance(layers, int) else tuple(layers)


def _place(name: str, before: tuple[int, ...], after: tuple[int, ...]) -> str:
    """Where a trained tensor goes.

    Layer j > 0 of an up block reads what entered a trained layer of its scale's down block, counted
    from the end: it moves back by the number of new ones. The first stays, as it alone takes the
    width of the coarser scale; it reads the end of the down block, which new layers pass on.
    """
    if (found := _LAYER.match(name)) is None or found[1] == "down" or found[3] == "0":
        return name
    scale = len(before) - 1 - int(found[2])
    place = int(found[3]) + after[scale] - before[scale]
    return f"{name[: found.start(3)]}{place}{name[found.end(3) :]}"


def _silence(module: nn.Module) -> None:
    """Let a fresh layer pass on its input; in an up block, without the skip joined to it."""
    if isinstance(module, Transformer2DModel):
        _zero(module.proj_out)
        return
    assert isinstance(module, ResnetBlock2D)
    _zero(module.conv2)
    if (shortcut := module.conv_shortcut) is not None:
        _zero(shortcut)
        nn.init.dirac_(shortcut.weight)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
