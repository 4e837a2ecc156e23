"""A diffusion transformer: diffusers' PixArtTransformer2DModel, text by cross attention.

Patches of latents as tokens (DiT, Peebles & Xie 2023), one modulation by the noise level for all
layers, and a cross attention in each (PixArt-α, Chen et al. 2023).
"""

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any

from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn

from ldm.config import Config
from ldm.core.errors import UserError
from ldm.models.network import CAPTION, Kind, Shape, Told
from ldm.models.view import view
from ldm.settings.arguments import refuse_arguments

# Follow from the latents and the conditioner, or are not for latents alone.
_DERIVED = ("in_channels", "out_channels", "sample_size", "cross_attention_dim", "caption_channels")
_OTHERS = ("self", "use_additional_conditions", "num_embeds_ada_norm", "norm_type")
_DEFAULTS = {"num_attention_heads": 8, "attention_head_dim": 32, "num_layers": 8, "patch_size": 2}
_UNTOLD = {"resolution": None, "aspect_ratio": None}  # conditions of PixArt's largest models alone


def build_transformer(arguments: Mapping[str, Any], shape: Shape) -> PixArtTransformer2DModel:
    """A transformer with weights as DiT begins: it predicts zero, and ignores its context.

    Raises UserError for an unknown argument, naming the nearest, and for what does not divide.
    """
    known = [n for n in signature(PixArtTransformer2DModel.__init__).parameters]
    known = [name for name in known if name not in (*_DERIVED, *_OTHERS)]
    for key in arguments:
        if key in _DERIVED:
            raise UserError(
                f"network.{key} follows from the data and is not set by hand: leave it out"
            )
        if key not in known:
            near = get_close_matches(key, known, 1, 0.0)[0]
            raise UserError(f"network has no argument {key!r}; the nearest is {near!r}")
    refuse_arguments("network", PixArtTransformer2DModel, arguments)
    options = _DEFAULTS | dict(arguments)
    channels, height, width = shape.latents
    if height != width or height % options["patch_size"]:
        raise UserError(
            f"network.patch_size={options['patch_size']} does not divide the {height} x {width} "
            "latents: take a divisor"
        )
    try:
        model = PixArtTransformer2DModel(
            **options,
            in_channels=channels,
            out_channels=shape.out_channels,
            sample_size=height,
            cross_attention_dim=options["num_attention_heads"] * options["attention_head_dim"],
            caption_channels=shape.context_dim,
            use_additional_conditions=False,
        )
    except Exception as error:  # whatever a constructor makes of a value it cannot use
        raise UserError(f"network: {' '.join(str(error).split())}") from None
    _begin(model)
    return model


def _begin(model: Any) -> None:
    """DiT's initialisation (section 3.2, adaLN-zero), and PixArt's of its cross attention."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    patches = model.pos_embed.proj
    nn.init.xavier_uniform_(patches.weight.view(len(patches.weight), -1))
    nn.init.normal_(model.adaln_single.linear.weight, std=0.02)
    for block in model.transformer_blocks:
        nn.init.zeros_(block.attn2.to_out[0].weight)
    nn.init.zeros_(model.proj_out.weight)


def _configured(config: Config, shape: Shape) -> PixArtTransformer2DModel:
    return build_transformer({k: v for k, v in config.network.items() if k != "kind"}, shape)


def _predict(model: Any, x: Tensor, label: Tensor, told: Told) -> Tensor:
    label = label.expand(len(x))
    context = told[CAPTION]
    return model(x, context, label, added_cond_kwargs=_UNTOLD, return_dict=False)[0]


def _context_dim(config: Any) -> int:
    return config.caption_channels


# a view alone: it projects its context anew at each call, so that nothing could be kept of it
TRANSFORMER = Kind(
    name="transformer",
    model=PixArtTransformer2DModel,
    build=_configured,
    predict=_predict,
    context_dim=_context_dim,
    patch=lambda config: config.patch_size,
    sampling=view,
)
