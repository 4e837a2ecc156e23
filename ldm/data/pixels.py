"""An image becomes pixels: resized, cropped to a square, mirrored."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


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


def normalise(pixels: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1
