"""What a call gives back, and latents that it is given."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ldm.core.errors import UserError

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class Images:
    """A call's result; as in diffusers, `result.images`."""

    images: Any  # list of PIL images, or an array (B, H, W, 3), or a tensor (B, C, H, W)
    nsfw_content_detected: None = None  # there is no filter

    def __getitem__(self, index: int) -> Any:
        return (self.images, self.nsfw_content_detected)[index]


def refuse_output_type(name: str) -> None:
    """Raise UserError before any sampling is done for nothing."""
    if name not in OUTPUT_TYPES:
        raise UserError(f"output_type {name!r} is not one of {', '.join(OUTPUT_TYPES)}")


def given_latents(latents: Any, shape: tuple[int, ...]) -> Tensor:
    """Latents from a user, float32; raises UserError where they are none of `shape`."""
    if not isinstance(latents, Tensor):
        raise UserError(f"latents are a {type(latents).__name__}: pass a tensor {shape}")
    if latents.shape != shape:
        raise UserError(f"latents are {tuple(latents.shape)}, not {shape}")
    if not bool(latents.isfinite().all()):
        raise UserError("latents hold NaN or infinity")
    return latents.float()


def output(pixels: Tensor, output_type: str) -> Images:
    """Pixels (B, 3, H, W) in [0, 1] in the form that was asked for."""
    if output_type == "pt":
        return Images(pixels)
    array = pixels.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return Images(array)
    return Images([Image.fromarray(a) for a in (array * 255).round().astype(np.uint8)])
