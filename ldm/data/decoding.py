"""Any image file becomes upright 8-bit RGB, or a BadImage that says why not."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from ldm.data.example import BadImage

MOST_PIXELS = 89_478_485  # Pillow's own limit for a decompression bomb


def decode(data: str | Path | bytes, name: str) -> Image.Image:
    """Open a file or its bytes: RGB, upright, transparency over white, the first frame.

    Raises BadImage for what is missing, broken, truncated or larger than MOST_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is refused or harmless here
            with Image.open(BytesIO(data) if isinstance(data, bytes) else data) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise BadImage(name, f"oversized, {image.width}x{image.height} pixels")
                image.load()
                return to_rgb(_upright(image))
    except BadImage:
        raise
    except Image.DecompressionBombError:
        raise BadImage(name, "oversized, a decompression bomb") from None
    except FileNotFoundError:
        raise BadImage(name, "there is no such file") from None
    except Exception as error:  # a decoder that meets broken bytes may raise anything
        raise BadImage(name, f"cannot be decoded: {error or type(error).__name__}") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:  # the pixels are fine; only the EXIF block is broken
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from any mode; raises what Pillow raises where there is no conversion."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode.startswith(("I", "F")):
        return _from_deep(np.asarray(image), image.mode)
    if image.mode == "LAB":
        spaces = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *spaces, outputMode="RGB")
        assert converted is not None  # it is only where the conversion is in place
        return converted
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)  # La has no way to RGBA
        layer = image.convert(straight).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _from_deep(values: np.ndarray, mode: str) -> Image.Image:
    """Grey of more than 8 bits, scaled by its range; Pillow's convert would clip it at 255."""
    if mode.startswith("F"):
        scale = 255.0 if values.size and np.nanmax(values) <= 1 else 1.0
    else:  # 16 bits, unless what lies in it says that it is more
        scale = 255.0 / max(65535, int(values.max(initial=0)))
    grey = np.clip(np.rint(np.nan_to_num(values.astype(np.float64) * scale)), 0, 255)
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
