"""Samples of more than 8 bits become bytes, by the range that holds them."""

import numpy as np
from PIL import Image

DEEP = ("I", "F")  # what such modes begin with
FEWER = (8, 10, 12)  # bits of cameras and scanners that are stored in 16 or 32
OVERSHOOT = 1.1  # how far beyond its range resampling takes a float
BAND = 2**20  # samples that are converted at once
TAGS = {
    **{"bits": 258, "photometric": 262, "highest": 281, "planes": 284},
    **{"format": 339, "highest of any type": 341},
}


def tag(image: Image.Image, name: str, default: float) -> float:
    """The first value of one of a TIFF's TAGS; `default` for what is no TIFF or has none."""
    found = getattr(image, "tag_v2", {}).get(TAGS[name], default)
    found = found[0] if isinstance(found, tuple) and found else found
    return float(found) if isinstance(found, int | float) else default


def shallow(image: Image.Image) -> Image.Image:
    """8-bit grey, L, or LA where one value is said to be clear, from the modes I, I;16 and F.

    Raises ValueError where nothing tells which values are black and white.
    """
    values = np.asarray(image)
    if image.mode == "I" and tag(image, "bits", 0) == 32 and tag(image, "format", 1) == 1:
        values = values.view(np.uint32)  # Pillow knows signed integers only
    white = _white(image, values)
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, BAND // max(1, image.width))
    for start in range(0, image.height, rows):
        grey[start : start + rows] = to_bytes(values[start : start + rows], white)
    if tag(image, "photometric", 1) == 0:  # white is zero, which Pillow heeds in 8 bits only
        grey = 255 - grey
    found = Image.fromarray(grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        found.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return found


def to_bytes(values: np.ndarray, white: float) -> np.ndarray:
    """uint8, 0 to `white` becoming 0 to 255."""
    return np.clip(np.rint(values.astype(np.float64) * (255.0 / white)), 0, 255).astype(np.uint8)


def _white(image: Image.Image, values: np.ndarray) -> float:
    """The value that is white in this image; raises ValueError where that cannot be told."""
    low, high = (float(f(values)) for f in (np.min, np.max)) if values.size else (0.0, 0.0)
    if not np.isfinite(low + high):
        raise ValueError("some of its values are infinite or not numbers")
    if image.mode.startswith("I"):
        white, slack = white_of_integers(image, high), 0.0
    else:
        white = _white_of_floats(values, max(high, tag(image, "highest of any type", 0)))
        slack = (OVERSHOOT - 1) * white
    if low < -slack:
        raise ValueError(f"its values run from {low:g} to {high:g}, so which is black is not known")
    return white


def white_of_integers(image: Image.Image, high: float) -> float:
    """What the highest value could be: of the bits that are declared, or else are needed."""
    declared = max(tag(image, "highest", 0), tag(image, "highest of any type", 0))
    if high <= declared:
        return 2.0 ** max(8, int(declared).bit_length()) - 1
    if image.format in ("PPM", "JPEG2000"):
        return 65535.0  # Pillow has stretched them by what the file declares
    stored = tag(image, "bits", 32 if image.mode == "I" else 16)
    if stored == 12:  # packed, so there is nothing to spare
        return 4095.0
    most = stored - (tag(image, "format", 2 if image.mode == "I" else 1) == 2)  # without the sign
    return 2.0 ** next((bits for bits in (*FEWER, 16) if bits < most and high < 2**bits), most) - 1


def _white_of_floats(values: np.ndarray, high: float) -> float:
    if high <= OVERSHOOT:
        return 1.0
    if np.median(values[values > 0]) < 1:
        raise ValueError(f"it has a high dynamic range, its values reach {high:g}")
    for bits in (*FEWER, 16):
        if high <= OVERSHOOT * (2**bits - 1):
            return 2.0**bits - 1
    raise ValueError(f"its values reach {high:g}, so which is white is not known")
