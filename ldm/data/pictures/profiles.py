"""ICC profiles of colours that a file only gives in numbers."""

import struct
from collections.abc import Sequence

import numpy as np

# x and y of white, red, green and blue
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
WIDE = (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)  # BT.2020
ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 563 / 256
SRGB_CURVE = 0.0  # in place of an exponent

D50 = np.array([0.9642, 1.0, 0.8249])  # what profiles are relative to
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def profile(white_and_primaries: Sequence[float], gamma: float) -> bytes | None:
    """A profile of RGB with these chromaticities (8) and this exponent, or SRGB_CURVE.

    None where no colours are like that.
    """
    x, y = np.reshape(white_and_primaries, (4, 2)).T
    if (y <= 0).any():
        return None
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)  # white, red, green, blue
    try:
        colorants = xyz[1:].T * np.linalg.solve(xyz[1:].T, xyz[0])
    except np.linalg.LinAlgError:
        return None
    cones = (BRADFORD @ D50) / (BRADFORD @ xyz[0])
    colorants = np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD @ colorants
    if not np.isfinite(colorants).all() or abs(colorants).max() > 100:
        return None
    return _written(colorants, gamma)


def _written(colorants: np.ndarray, gamma: float) -> bytes:
    """ICC.1:2010: a display's profile, of three columns and one curve."""
    if gamma == SRGB_CURVE:
        kind, numbers = 3, [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045]
    else:
        kind, numbers = 0, [gamma]
    curve = b"para" + struct.pack(">IHH", 0, kind, 0) + _fixed(numbers)
    values = [b"XYZ " + struct.pack(">I", 0) + _fixed(c) for c in (D50, *colorants.T)] + [curve]
    signs = (b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC")
    places, body, start = {}, b"", 128 + 4 + 12 * 7
    for sign, value in zip(signs, values, strict=True):
        places[sign] = (start + len(body), len(value))
        body += value
    places[b"gTRC"] = places[b"bTRC"] = places[b"rTRC"]
    table = struct.pack(">I", len(places))
    table += b"".join(struct.pack(">4sII", sign, *place) for sign, place in places.items())
    head = struct.pack(
        ">I4sI4s4s4s12x4s4sIIIQI12s48x",
        *(start + len(body), b"", 0x04300000, b"mntr", b"RGB ", b"XYZ "),
        *(b"acsp", b"", 0, 0, 0, 0, 1, _fixed(D50)),
    )
    return head + table + body


def _fixed(numbers: Sequence[float] | np.ndarray) -> bytes:
    """s15Fixed16."""
    return struct.pack(f">{len(numbers)}i", *(round(float(n) * 65536) for n in numbers))
