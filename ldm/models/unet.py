"""The conditional U-Net: diffusers' own class, from a config."""

from collections.abc import Sequence
from difflib import get_close_matches
from inspect import signature
from math import gcd
from typing import Any

from diffusers.models import UNet2DConditionModel
from torch import Tensor, nn

from ldm.config import Config
from ldm.core.errors import UserError
from ldm.models.attention import caching_context
from ldm.models.growth import grown
from ldm.models.network import CAPTION, Kind, Shape, Told
from ldm.models.pretrained import load_pretrained
from ldm.settings.arguments import refuse_arguments

# Follow from the latents and the conditioner, so they are not the user's to set.
_DERIVED = ("self", "sample_size", "in_channels", "out_channels", "cross_attention_dim")


def build_unet(
    kwargs: dict[str, Any],
    *,
    sample_size: int | tuple[int, int],
    in_channels: int,
    out_channels: int,
    cross_attention_dim: int,
) -> UNet2DConditionModel:
    """A stock UNet2DConditionModel; `kwargs` are its constructor's arguments.

    Where they are silent: widths 128, 256, 256; cross attention on every scale but the coarsest,
    as in Stable Diffusion; heads 32 wide. `init` is a trained one to start from, a folder or
    Hub name, also a pipeline's; it takes no other argument but `variant`, of its weights, and
    `layers_per_block`, to which it grows. Raises UserError for an unknown argument, naming the
    nearest, for values the class refuses, and for a trained one of another shape.
    """
    shape = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "cross_attention_dim": cross_attention_dim,
    }
    if "init" in kwargs:
        if kwargs["init"] is not None:
            return _trained(kwargs, sample_size, shape)
        kwargs = {k: v for k, v in kwargs.items() if k not in ("init", "variant")}
    known = [name for name in signature(UNet2DConditionModel).parameters if name not in _DERIVED]
    for key in kwargs:
        if key in _DERIVED:
            raise UserError(
                f"unet.{key} follows from the data and is not set by hand: leave it out"
            )
        if key not in known:
            near = get_close_matches(key, ("init", *known), 1, 0.0)[0]
            raise UserError(f"unet has no argument {key!r}; the nearest is {near!r}")

    refuse_arguments("unet", UNet2DConditionModel, kwargs)
    for key in ("class_embed_type", "num_class_embeds"):
        if kwargs.get(key) is not None:
            raise UserError(f"unet.{key} is not trained here: classes are conditioning.kind=class")
    widths = tuple(kwargs.get("block_out_channels", (128, 256, 256)))
    scales = len(widths)
    defaults = {
        "block_out_channels": widths,
        "down_block_types": ("CrossAttnDownBlock2D",) * (scales - 1) + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (scales - 1),
        # The class calls the number of heads `attention_head_dim` (diffusers issue 2011).
        "attention_head_dim": tuple(max(1, width // 32) for width in widths),
        "norm_num_groups": gcd(32, *widths),
    }
    if kwargs.get("addition_embed_type") == "text":
        heads = kwargs.get("addition_embed_type_num_heads", max(1, cross_attention_dim // 32))
        if heads < 1 or cross_attention_dim % heads:
            raise UserError(
                f"the prompt's {cross_attention_dim} features do not split into {heads} heads: set "
                "unet.addition_embed_type_num_heads to a divisor"
            )
        defaults["addition_embed_type_num_heads"] = heads
    lists_as_tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    try:
        return UNet2DConditionModel(
            **defaults | lists_as_tuples,
            **shape,
            sample_size=whole_side(sample_size),
        )
    except Exception as error:  # whatever a constructor makes of a value it cannot use
        raise UserError(f"unet: {' '.join(str(error).split())}") from None


def _trained(
    kwargs: dict[str, Any], sample_size: int | tuple[int, int], shape: dict[str, int]
) -> UNet2DConditionModel:
    """The one that `init` names, if it has the `shape` that the other parts need."""
    if others := sorted(kwargs.keys() - {"init", "variant", "layers_per_block"}):
        raise UserError(f"unet.init brings its own architecture: leave out unet.{others[0]}")
    unet = load_pretrained(UNet2DConditionModel, kwargs["init"], "unet", kwargs.get("variant"))
    for key, value in shape.items():
        if (found := unet.config[key]) != value:
            raise UserError(
                f"unet.init={kwargs['init']} has {key} {found}, and this autoencoder, conditioning "
                f"and prediction need {value}: take all of them from one model"
            )
    unet.register_to_config(sample_size=whole_side(sample_size))
    if "layers_per_block" in kwargs:
        unet = grown(unet, kwargs["layers_per_block"])
    return unet.train()


def _refuse_a_lone_unet(config: Config) -> None:
    """Raise where a trained U-Net would see another text encoder's words or rescaled latents."""
    kind = config.conditioning.kind
    if kind in ("joint", "class"):
        raise UserError(
            f"unet.init needs the text encoder it was trained with, and kind={kind} starts anew: "
            "give conditioning.kind=clip conditioning.path=NAME"
        )
    if config.autoencoder.standardize:
        raise UserError(
            "unet.init knows its latents as they were, and autoencoder.standardize=true rescales "
            "them: set it to false"
        )


def whole_side(sample_size: int | Sequence[int]) -> int | tuple[int, ...]:
    """A size as a config has it: one number where the sides are equal.

    diffusers' image-to-image, inpainting, PAG and Auto pipelines compare it with a number.
    """
    sides = (sample_size,) if isinstance(sample_size, int) else tuple(sample_size)
    return sides[0] if len(set(sides)) == 1 else sides


def parameter_count(model: nn.Module) -> int:
    """How many numbers a model learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def _configured(config: Config, shape: Shape) -> UNet2DConditionModel:
    if config.unet.get("init"):
        _refuse_a_lone_unet(config)
    channels, height, width = shape.latents
    return build_unet(
        config.unet,
        sample_size=(height, width),
        in_channels=channels,
        out_channels=shape.out_channels,
        cross_attention_dim=shape.context_dim,
    )


def _predict(unet: Any, x: Tensor, label: Tensor, told: Told) -> Tensor:
    return unet(x, label, told[CAPTION], return_dict=False)[0]


def _context_dim(config: Any) -> int:
    projected = getattr(config, "encoder_hid_dim", None)
    return config.cross_attention_dim if projected is None else projected


UNET = Kind(
    name="U-Net",
    model=UNet2DConditionModel,
    build=_configured,
    predict=_predict,
    context_dim=_context_dim,
    patch=lambda config: 1,  # whatever a scale leaves over is resized
    sampling=caching_context,
)
