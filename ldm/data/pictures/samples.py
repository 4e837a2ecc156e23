"""Where Pillow misreads samples of more than 8 bits, or keeps only half of each."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from ldm.data.pictures.depth import FEWER, tag, to_bytes, white_of_integers

SWAPPED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def raw_mode(image: ImageFile.ImageFile) -> str:
    """How the samples lie in a file that is not loaded yet, in Pillow's words."""
    arguments: Any = image.tile[0][3] if image.tile else ""
    return arguments if isinstance(arguments, str) else str((*(arguments or ()), "")[0])


def mend(image: ImageFile.ImageFile) -> None:
    """Have an image that is not loaded yet read right.

    libtiff gives what it decompresses in the machine's order, whatever the file's; planes of 16
    bits that are not compressed are none of 8; and of a clear colour the upper bytes are compared.
    """
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and ";16" in raw_mode(image):
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.format != "TIFF":
        return
    order = "B" if image.tag_v2.prefix == b"MM" else "L"  # type: ignore[attr-defined]
    deep = tag(image, "bits", 1) == 16

    def right(decoder: str, raw: str) -> str:
        if decoder == "libtiff":
            return {"F;32BF": "F;32NF", "I;16BS": "I;16NS", "I;32BS": "I;32NS"}.get(raw, raw)
        return f"{raw};16{order}" if deep and raw in "RGBACMYK" else raw

    _rewrite(image, right)


def deepened(
    image: Image.Image,
    raw: str,
    again: Callable[[], ImageFile.ImageFile],
    upright: Callable[[Image.Image], Image.Image],
) -> Image.Image:
    """Colours of 16 bits by the range that holds them; `image` itself where that is all of it.

    Pillow keeps the upper byte of each. Where that is nearly nothing, the file is read again with
    its bytes swapped, for the lower, and turned as `image` was by `upright`. Raises what Pillow
    raises where it cannot be.
    """
    if ";16" not in raw or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    upper = np.asarray(image)
    colours = 3 if image.mode == "RGBA" else upper.shape[2]
    if not 0 < int(upper[..., :colours].max(initial=0)) + 1 <= 2 ** (max(FEWER) - 8):
        return image
    swapped = again()
    if swapped.tile[0][0] == "libtiff" and tag(swapped, "planes", 1) == 2:
        raise ValueError("its planes of 16-bit samples hold fewer bits, and are compressed")
    mend(swapped)
    _rewrite(swapped, lambda decoder, raw: raw[:-1] + SWAPPED[raw[-1]])
    swapped.load()
    values = upper.astype(np.uint16) << 8 | np.asarray(upright(swapped))
    parts = [values[..., :colours], values[..., colours:]]
    parts = [to_bytes(p, white_of_integers(swapped, float(p.max()))) for p in parts if p.size]
    deep = Image.fromarray(np.concatenate(parts, -1), image.mode)
    deep.info = image.info
    return deep


def _rewrite(image: ImageFile.ImageFile, change: Callable[[str, str], str]) -> None:
    """Change how the samples of each tile are unpacked."""
    tiles: list[Any] = image.tile
    for number, tile in enumerate(tiles):
        decoder, box, offset, found = tile
        if not found:
            continue
        raw, *rest = [found] if isinstance(found, str) else found
        changed = change(decoder, raw)
        arguments = changed if isinstance(found, str) else (changed, *rest)
        plain = (decoder, box, offset, arguments)
        tiles[number] = type(tile)(*plain) if hasattr(tile, "_fields") else plain
