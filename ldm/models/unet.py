"""The conditional U-Net: diffusers' own class, from a config, with two attention processors."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from inspect import signature
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models import UNet2DConditionModel
from torch import Tensor, nn

from ldm.config import Config
from ldm.core.errors import UserError
from ldm.models.growth import grown
from ldm.models.pretrained import load_pretrained
from ldm.models.view import view
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


def configured_unet(
    config: Config, latents: tuple[int, int, int], context_dim: int
) -> UNet2DConditionModel:
    """The U-Net of a config for latents (C, h, w) and a context of that width."""
    if config.unet.get("init"):
        _refuse_a_lone_unet(config)
    channels, height, width = latents
    return build_unet(
        config.unet,
        sample_size=(height, width),
        in_channels=channels,
        out_channels=channels * (2 if config.diffusion.learned_variance else 1),
        cross_attention_dim=context_dim,
    )


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


def caching_context(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same network, in which each cross attention projects a context tensor once.

    Exact: a sampling loop passes the same context tensor object at every step, and it is that
    object which is recognised. Not for training (the projections would go stale). `unet` itself
    stays as it is.
    """
    return _processing(unet, lambda name: CachedContextProcessor() if _is_cross(name) else None)


def perturbing_attention(
    unet: UNet2DConditionModel, where: str = "mid_block"
) -> UNet2DConditionModel:
    """The same network, in which self attention under `where` is the identity.

    Every position attends to itself: the weak network of perturbed-attention guidance (Ahn et al.
    2024, arXiv:2403.17377, eq. 15). `unet` itself stays as it is. Raises UserError where there is
    no such attention.
    """

    def identity(name: str) -> Any:
        perturbed = name.startswith(where) and name.endswith("attn1.processor")
        return IdentityAttentionProcessor() if perturbed else None

    if not any(map(identity, unet.attn_processors)):
        raise UserError(f"no self attention under {where!r} in this U-Net: name another block")
    return _processing(unet, identity)


def _processing(
    unet: UNet2DConditionModel, choose: Callable[[str], Any | None]
) -> UNet2DConditionModel:
    """A view of `unet` with the processors that are chosen by name; the others stay."""
    other = view(unet)
    other.set_attn_processor({n: choose(n) or p for n, p in unet.attn_processors.items()})
    return other


def _is_cross(name: str) -> bool:
    """Whether a processor's name is that of a transformer block's attention to the context."""
    return name.endswith("attn2.processor")


class CachedContextProcessor:
    """diffusers' AttnProcessor2_0 in a transformer block, keeping each context's projections."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []  # (context, its keys, its values)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,  # (B, N, C)
        encoder_hidden_states: Tensor | None = None,  # (B, L, D)
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        assert not torch.is_grad_enabled(), "cached keys and values are for sampling"
        assert encoder_hidden_states is not None, "only attention to a context can be kept"
        query = _heads(attn, attn.to_q(hidden_states))
        key, value = self._once(attn, encoder_hidden_states)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(
                attention_mask, key.shape[-2], len(hidden_states)
            ).view(len(hidden_states), attn.heads, -1, key.shape[-2])
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        out = out.transpose(1, 2).flatten(2).to(query.dtype)
        return _output(attn, out, hidden_states)

    def _once(self, attn: Any, context: Tensor) -> tuple[Tensor, Tensor]:
        for known, key, value in self.seen:
            if known is context:
                return key, value
        normed = attn.norm_encoder_hidden_states(context) if attn.norm_cross else context
        key, value = _project(attn, normed)
        self.seen.append((context, key, value))
        return key, value


class IdentityAttentionProcessor:
    """Self attention whose attention map is the identity: the output is the projected values."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,  # (B, N, C)
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        assert encoder_hidden_states is None, "only self attention has an identity map"
        return _output(attn, attn.to_v(hidden_states), hidden_states)


def _heads(attn: Any, x: Tensor) -> Tensor:
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, heads, N, C / heads)


def _project(attn: Any, context: Tensor) -> tuple[Tensor, Tensor]:
    return _heads(attn, attn.to_k(context)), _heads(attn, attn.to_v(context))


def _output(attn: Any, out: Tensor, hidden_states: Tensor) -> Tensor:
    out = attn.to_out[1](attn.to_out[0](out))
    residual = hidden_states if attn.residual_connection else 0
    return (out + residual) / attn.rescale_output_factor
