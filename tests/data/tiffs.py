"""TIFFs as cameras, scanners and laboratories write them, and Pillow cannot."""

import struct
import zlib

import numpy as np


def tiff(
    samples: np.ndarray,
    *,
    big: bool = False,
    planar: bool = False,
    deflate: bool = False,
    tags: dict[int, int] | None = None,
) -> bytes:
    """Samples (H, W) or (H, W, C) of any type, in one strip or one a plane; `tags` come on top."""
    order = ">" if big else "<"
    pixels = np.atleast_3d(samples)
    height, width, channels = pixels.shape
    pixels = pixels.astype(pixels.dtype.newbyteorder(order))
    planes = [pixels[..., k] for k in range(channels)] if planar else [pixels]
    strips = [plane.tobytes() for plane in planes]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    entries: dict[int, list[int]] = {
        **{256: [width], 257: [height], 258: [8 * pixels.itemsize] * channels},
        **{259: [8 if deflate else 1], 262: [2 if channels > 2 else 1], 273: [0] * len(strips)},
        **{277: [channels], 278: [height], 279: [len(strip) for strip in strips]},
        **{284: [2 if planar else 1], 339: [" uif".index(pixels.dtype.kind)] * channels},
        **({338: [2]} if channels in (2, 4) else {}),
        **{tag: [value] for tag, value in (tags or {}).items()},
    }
    start = 8 + 2 + 12 * len(entries) + 4  # of what does not fit into an entry, and then the strips
    at = start + sum(4 * len(values) for values in entries.values() if len(values) > 1)
    entries[273] = [at + sum(map(len, strips[:k])) for k in range(len(strips))]
    table, rest = struct.pack(f"{order}H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, rest = struct.pack(f"{order}I", start + len(rest)), rest + packed
        table += struct.pack(f"{order}HHI", tag, 4, len(values)) + packed
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(f"{order}I", 8)
    return head + table + bytes(4) + rest + b"".join(strips)
