"""An image becomes pixels: resized, cropped to a square, mirrored."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.core.errors import UserError
from ldm.data.example import Source
from ldm.data.order import subset
from ldm.data.pictures.bad import BadImage

MOST = 20_000  # images that are held in memory unless told


def to_pixels(
    image: Image.Image,
    resolution: int,
    crop: str = "center",
    flip: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """uint8 (3, R, R): a square as large as the shorter side, by antialiased Lanczos.

    The square lies in the middle, or where `generator` says for crop="random"; flip mirrors it.
    Cropping and resizing are one resampling, so the same box always gives the same pixels.
    """
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    if crop == "random":
        u = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        left, top = u[0] * (image.width - side), u[1] * (image.height - side)
    box = (left, top, left + side, top + side)
    if image.size != (resolution, resolution):
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return (pixels.flip(-1) if flip else pixels).contiguous()


def as_bytes(x: Tensor) -> Tensor:
    """[-1, 1] -> the nearest uint8 in 0..255, what is beyond clamped."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte()


def normalise(pixels: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def pictures(pixels: Tensor) -> list[Image.Image]:
    """Of uint8 (N, 3, H, W)."""
    return [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pixels]


def pixels_of(
    source: Source, resolution: int, most: int = MOST, seed: int = 0
) -> tuple[Tensor, list[int]]:
    """Centre crops uint8 (N, 3, R, R) and the indices they are of, without the bad ones.

    All of `source`, or `most` images that `seed` draws from all of it. Raises UserError where none
    can be read.
    """
    crops, indices = [], []
    for index in subset(len(source), most, seed):
        try:
            crops.append(to_pixels(source.image(index), resolution))
        except BadImage:
            continue
        indices.append(index)
    if not crops:
        raise UserError(f"none of the {len(source)} images can be read")
    return torch.stack(crops), indices
