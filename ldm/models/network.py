"""The port of a denoiser: whichever of diffusers' models it is, the same call and a few facts."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ldm.config import Config

CAPTION = "caption"  # the name of text, and of classes, which are words
Told = Mapping[str, Tensor]  # conditions by name, such as CAPTION: a context (B, L, D)


class Shape(NamedTuple):
    """What a network is built for."""

    latents: tuple[int, int, int]  # (C, h, w)
    out_channels: int  # C, or 2C where it learns its variance
    context_dim: int  # D of the context (B, L, D) that it attends to


class Kind(NamedTuple):
    """One kind of denoiser, an adapter around a class of diffusers'.

    The weights keep that class's names, so that a checkpoint is one that others can read.
    """

    name: str  # as a sentence has it
    model: type  # of diffusers
    build: Callable[[Config, Shape], Any]  # raises UserError for what cannot be
    predict: Callable[[Any, Tensor, Tensor, Told], Tensor]  # (it, x, label, told) → F
    context_dim: Callable[[Any], int]  # D, by the model's own config
    patch: Callable[[Any], int]  # what divides the sides of its latents, by the same
    sampling: Callable[[Any], Any]  # a view of it, in evaluation mode, for a loop of many calls
