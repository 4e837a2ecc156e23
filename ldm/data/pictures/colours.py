"""Any mode becomes 8-bit sRGB: profiles are applied, transparency lies over white."""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from ldm.data.pictures.depth import DEEP, shallow

SAME = 2  # of 255: a profile that moves no colour further is sRGB by another name
BLACK_POINT_COMPENSATION = 0x2000  # lcms's flag, for which older Pillows have no name
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # what a profile's colour space is here


def to_rgb(image: Image.Image) -> Image.Image:
    """A new 8-bit RGB image in sRGB from any mode, transparency over white, without metadata.

    A profile that is broken or of another kind of image is passed over. Raises what Pillow raises
    where there is no conversion, and ValueError where the range of deep samples cannot be told.
    """
    profile = image.info.get("icc_profile")
    if image.mode.startswith(DEEP):
        image = shallow(image)
    if image.mode == "LAB":
        spaces = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *spaces, outputMode="RGB")
        assert converted is not None  # it is only where the conversion is in place
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)  # La has no way to RGBA
        layer = image.convert(straight).convert("RGBA")
        if _transform(profile) is not None:
            grey = image.mode in ("L", "LA", "La", "1")
            colours = _srgb(layer.getchannel("R") if grey else layer.convert("RGB"), profile)
            colours.putalpha(layer.getchannel("A"))
            layer = colours
        white = Image.new("RGBA", layer.size, "white")
        converted = Image.alpha_composite(white, layer).convert("RGB")
    else:
        converted = _srgb(image, profile)
    converted.info = {}  # above all no profile, which would be applied twice
    return converted


def _srgb(image: Image.Image, profile: Any) -> Image.Image:
    """By its profile, or plainly where it has none that fits."""
    found = _transform(profile)
    if found is not None:
        mode, transform = found
        fits = {"L": ("1", "L"), "CMYK": ("CMYK",)}.get(mode)
        if image.mode in fits if fits else image.mode != "CMYK":
            return transform.apply(image.convert(mode))
    return image.convert("RGB")


@lru_cache(maxsize=32)
def _transform(profile: Any) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """From a profile's colours to sRGB, and the mode it takes; None: they are sRGB, or unreadable.

    Relative colorimetric with black point compensation, as photo editors convert. Making one costs
    more than decoding a small photo, and any thread may use it.
    """
    if not isinstance(profile, bytes):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = MODES.get(source.profile.xcolor_space.strip())
        if mode is None:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            BLACK_POINT_COMPENSATION,  # type: ignore[arg-type]  # newer Pillows type it as a Flag
        )
        if mode != "CMYK":
            before = _all_over(mode)
            after = np.asarray(transform.apply(before), np.int16)
            if np.abs(after - np.asarray(before.convert("RGB"), np.int16)).max() <= SAME:
                return None
    except Exception:  # lcms and Pillow raise as they please, also where lcms is not built in
        return None
    return mode, transform


def _all_over(mode: str) -> Image.Image:
    """Colours from everywhere in RGB, or all greys."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
    return Image.fromarray(cube.reshape(1, -1, 3))
