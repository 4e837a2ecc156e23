"""The pictures and masks that a user gives to a call, in whatever form."""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from ldm.core.errors import UserError
from ldm.data.pictures.bad import BadImage
from ldm.data.pictures.decoding import as_rgb, decode
from ldm.ports.codec import Codec
from pipelines.calls.call import Call
from pipelines.calls.defaults import number

Reader = Callable[[Image.Image], Image.Image]
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's "L"


@dataclass(frozen=True)
class Pictures:
    """What a call starts from: pixels (k, 3, H, W) in [-1, 1], or latents (k, C, h, w)."""

    tensor: Tensor
    encoded: bool
    codec: Codec

    @classmethod
    def of(
        cls,
        image: Any,
        codec: Codec,
        size: tuple[int, int] | None = None,
        multiple: int | None = None,
    ) -> "Pictures":
        """Resized to `size`, in latents; else their own, rounded down to whole latents.

        Or to a larger `multiple` of pixels.

        PIL images, paths and 8-bit arrays are read as training reads them: upright, transparency
        over white. Floats are in [0, 1], or in [-1, 1] where some are negative; arrays end, and
        tensors begin, with their channels. A tensor with the channels of the latents is latents,
        as this project's and diffusers' output_type="latent" gives them.
        """
        channels = codec.channels
        found = _read("image", image, as_rgb, channels)
        if isinstance(found, Tensor) and found.shape[1] == channels != 3:
            latents = tuple(found.shape[-2:])
            if size is not None and latents != size:
                raise UserError(f"image is latents of {latents}, and the picture's are {size}")
            return cls(found, True, codec)
        sized = _sized("image", found, codec, size, multiple, do_convert_rgb=True)
        return cls(sized, False, codec)

    @property
    def count(self) -> int:
        return len(self.tensor)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents."""
        rows, columns = self.tensor.shape[-2:]
        shrunk = 1 if self.encoded else self.codec.factor
        return self.codec.channels, rows // shrunk, columns // shrunk

    def latents(self, call: Call) -> Tensor:
        """Latents (B, C, h, w) for each image of the call, with a draw from the posterior."""
        if self.encoded:
            return call.rows("images", self.tensor)
        pixels = call.rows("images", self.tensor)[:: call.count // self.count]
        return self.codec.view().encode(pixels, call.draw.of(self.count))


def painted(mask: Any, codec: Codec, size: tuple[int, int]) -> Tensor:
    """1 where a latent is to be painted: (k, 1, h, w) of 0 and 1, as diffusers samples it."""
    grey = _sized(
        "mask_image",
        _read("mask_image", mask, _as_mask, 0),
        codec,
        size,
        None,
        do_normalize=False,
        do_binarize=True,
        do_convert_grayscale=True,
    )
    return F.interpolate(grey, size=size)


def refuse_strength(strength: float, steps: int) -> None:
    """Raise UserError where no step would be run, or more than there are."""
    if not 0 < number("strength", strength) <= 1 or int(steps * strength) < 1:
        raise UserError(
            f"strength={strength} of {steps} steps must be at most 1 and leave at least one step"
        )


def _sized(
    name: str,
    found: list[Image.Image] | Tensor,
    codec: Codec,
    size: tuple[int, int] | None,
    multiple: int | None,
    **options: bool,
) -> Tensor:
    """Pictures through diffusers' own processor, resized to `size` in latents or to whole ones."""
    side = multiple or codec.factor
    given = {p.size[::-1] for p in found} if isinstance(found, list) else {found.shape[-2:]}
    if size is None:
        if len(given) > 1:
            raise UserError(f"{name} has pictures of {len(given)} sizes: resize them to one")
        if min(own := next(iter(given))) < side:
            raise UserError(
                f"{name} is {own[1]} x {own[0]} pixels, and the least is {side} x {side}"
            )
    factor = codec.factor
    target = (None, None) if size is None else (size[0] * factor, size[1] * factor)
    processor = VaeImageProcessor(vae_scale_factor=side, vae_latent_channels=0, **options)
    return processor.preprocess(found, *target).float()


def _read(
    name: str, given: Any, reader: Reader, latent_channels: int
) -> list[Image.Image] | Tensor:
    """8-bit pictures as PIL images; floats, and latents, as a tensor (k, C, H, W)."""
    if given is None:
        about = (
            "the picture to start from" if name == "image" else "a picture, white where to paint"
        )
        raise UserError(f"{name} is missing: pass {about}")
    if isinstance(given, (list, tuple)):
        return _joined(name, [_read(name, each, reader, latent_channels) for each in given])
    if isinstance(given, (str, PathLike)):
        given = _opened(name, str(given), reader)
    if isinstance(given, Image.Image):
        try:
            return [reader(given)]
        except Exception as error:  # a decoder that meets broken bytes may raise anything
            raise UserError(f"{name} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(given, (np.ndarray, Tensor)):
        raise UserError(
            f"{name} is a {type(given).__name__}: pass PIL images, paths, arrays or tensors"
        )
    array = _channels_last(given) if isinstance(given, Tensor) else given
    array = _batch(name, array)
    if array.dtype == bool or (reader is _as_mask and array.dtype == np.uint8 and array.max() <= 1):
        array = array.astype(np.uint8) * 255  # a mask of 0 and 1
    if array.dtype == np.uint16 and array.shape[-1] != 1:
        raise UserError(f"{name} is colours of uint16: pass uint8, or floats in [0, 1]")
    if array.dtype in (np.uint8, np.uint16):
        pictures = [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in array]
        return [reader(picture) for picture in pictures]
    latents = isinstance(given, Tensor) and array.shape[-1] == latent_channels != 3
    return _floats(name, array, latents, grey=reader is _as_mask)


def _channels_last(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return np.moveaxis(array, -3, -1) if array.ndim >= 3 else array


def _batch(name: str, array: np.ndarray) -> np.ndarray:
    """(k, H, W, C), from one or several pictures, grey ones too."""
    shape = array.shape
    if 0 in shape or not 2 <= len(shape) <= 4:
        raise UserError(f"{name} is an array {shape}: pass (H, W, 3), or several of them")
    if len(shape) == 4:
        return array
    if len(shape) == 2:
        return array[None, ..., None]
    if shape[-1] in (1, 2, 3, 4) or shape[0] != 3:
        return array[None] if shape[-1] in (1, 3, 4) else array[..., None]
    raise UserError(f"{name} is an array {shape}: pass channels last, (H, W, 3), or a tensor")


def _floats(name: str, array: np.ndarray, latents: bool, grey: bool) -> Tensor:
    """Numbers that are no bytes, checked and in [0, 1]; latents stay as they are."""
    if array.dtype.kind != "f":
        raise UserError(f"{name} is of {array.dtype}: pass uint8, or floats in [0, 1]")
    x = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).movedim(-1, 1)
    if not bool(x.isfinite().all()):
        raise UserError(f"{name} holds NaN or infinity")
    if latents:
        return x
    low, high = float(x.min()), float(x.max())
    if low < (0 if grey else -1) or high > 1:
        raise UserError(
            f"{name} has values from {low:g} to {high:g}: pass floats in [0, 1], or uint8"
        )
    if x.shape[1] not in (1, 3, 4):
        raise UserError(f"{name} has {x.shape[1]} channels: pass 1, 3 or 4")
    x = x if low >= 0 else x / 2 + 0.5
    if x.shape[1] == 4:
        over = 0.0 if grey else 1.0
        x = x[:, :3] * x[:, 3:] + over * (1 - x[:, 3:])
    if grey and x.shape[1] == 3:
        return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    return x if grey else x.expand(-1, 3, -1, -1)


def _joined(name: str, parts: list[Any]) -> list[Image.Image] | Tensor:
    if not parts:
        raise UserError(f"{name} is an empty list: pass at least one picture")
    if all(isinstance(part, list) for part in parts):
        return [picture for part in parts for picture in part]
    if any(isinstance(part, list) for part in parts):
        raise UserError(f"{name} mixes 8-bit pictures with floats or latents: pass one kind")
    if len({part.shape[1:] for part in parts}) > 1:
        raise UserError(f"{name} has arrays of several shapes: make them one")
    return torch.cat(parts)


def _opened(name: str, path: str, reader: Reader) -> Image.Image:
    if "://" in path:
        raise UserError(f"{name}={path} is an address: fetch it, and pass its path or the picture")
    try:
        if reader is as_rgb:
            return decode(Path(path).expanduser(), path)
        return Image.open(Path(path).expanduser())
    except (BadImage, OSError, ValueError) as error:
        raise UserError(f"{name}={path} cannot be read: {error}") from None


def _as_mask(image: Image.Image) -> Image.Image:
    """8-bit grey, upright; what is transparent is black, so that a brush's strokes are a mask."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer)
    return as_rgb(image).convert("L")
