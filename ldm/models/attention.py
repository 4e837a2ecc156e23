"""Networks seen with other attention: contexts projected once, or no attention to oneself."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.core.errors import UserError
from ldm.models.view import view


def caching_context(unet: Any) -> Any:
    """The same network, in which each cross attention projects a context tensor once.

    Exact: a sampling loop passes the same context tensor object at every step, and it is that
    object which is recognised. Not for training (the projections would go stale). `unet` itself
    stays as it is.
    """
    return _processing(unet, lambda name: CachedContextProcessor() if _is_cross(name) else None)


def perturbing_attention(unet: Any, where: str = "mid_block") -> Any:
    """The same network, in which self attention under `where` is the identity.

    Every position attends to itself: the weak network of perturbed-attention guidance (Ahn et al.
    2024, arXiv:2403.17377, eq. 15). `unet` itself stays as it is. Raises UserError where there is
    no such attention.
    """

    def identity(name: str) -> Any:
        perturbed = name.startswith(where) and name.endswith("attn1.processor")
        return IdentityAttentionProcessor() if perturbed else None

    if not any(map(identity, getattr(unet, "attn_processors", ()))):
        raise UserError(f"this network has no self attention under {where!r}: leave pag_scale out")
    return _processing(unet, identity)


def _processing(unet: Any, choose: Callable[[str], Any | None]) -> Any:
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
