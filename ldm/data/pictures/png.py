"""What a PNG says besides its pixels: text is left out, and what it says of colour is a profile."""

import struct
import zlib
from collections.abc import Iterator

from ldm.data.pictures.profiles import P3, SRGB, SRGB_CURVE, WIDE, profile

MAGIC = b"\x89PNG\r\n\x1a\n"
COLOURS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
UPRIGHT = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # texts that may say which way is up
LONGEST_TEXT = 2**20  # bytes of those: what Pillow reads
LONGEST_PROFILE = 2**24  # bytes
PRIMARIES = {1: SRGB, 9: WIDE, 12: P3}  # of ITU-T H.273, as are the curves
CURVES = {1: SRGB_CURVE, 4: 2.2, 5: 2.8, 6: SRGB_CURVE, 8: 1.0, 13: SRGB_CURVE, 14: SRGB_CURVE}
HDR = {16: "PQ", 18: "HLG"}


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, beginning and end of each chunk, as far as they are whole."""
    at = len(MAGIC)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            return
        yield kind, at, end
        at = end


def pared(data: bytes) -> tuple[bytes, bytes | None]:
    """A PNG without texts and profile, which Pillow refuses where they are long; and its profile.

    As browsers do, cICP comes before iCCP, that before sRGB, and that before gAMA with cHRM.
    Raises ValueError where the colours are of a high dynamic range.
    """
    kept, since = [], 0
    said: dict[bytes, bytes] = {}
    for kind, start, end in chunks(data):
        body = data[start + 8 : end - 4] if kind != b"IDAT" else b""
        if kind in COLOURS:
            said.setdefault(kind, body)
        if kind in COLOURS or (kind in TEXTS and not _keeps_upright(kind, body)):
            kept.append(data[since:start])
            since = end
    return b"".join((*kept, data[since:])) if kept else data, _profile(said)


def _keeps_upright(kind: bytes, body: bytes) -> bool:
    if not body.startswith(UPRIGHT):
        return False
    if kind == b"tEXt":
        return len(body) < LONGEST_TEXT
    at = body.find(b"\0") + 2
    if kind == b"iTXt":
        if body[at - 1 : at] != b"\1":
            return len(body) < LONGEST_TEXT
        at = body.find(b"\0", body.find(b"\0", at + 1) + 1) + 1  # a language and a translation
    return _inflated(body[at:], LONGEST_TEXT) is not None


def _inflated(data: bytes, most: int) -> bytes | None:
    """None for what is broken or longer."""
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(data, most)
    except zlib.error:
        return None
    return None if inflate.unconsumed_tail else found


def _profile(said: dict[bytes, bytes]) -> bytes | None:
    """The ICC profile that a PNG holds or amounts to; None for sRGB."""
    coded = said.get(b"cICP", b"")
    if len(coded) == 4:
        if coded[1] in HDR:
            raise ValueError(f"it has a high dynamic range ({HDR[coded[1]]})")
        if coded[0] in PRIMARIES and coded[1] in CURVES:
            return profile(PRIMARIES[coded[0]], CURVES[coded[1]])
    if b"iCCP" in said:
        _, _, rest = said[b"iCCP"].partition(b"\0")
        return _inflated(rest[1:], LONGEST_PROFILE)
    if b"sRGB" in said or b"gAMA" not in said:
        return None
    if len(said[b"gAMA"]) != 4:
        return None
    gamma = struct.unpack(">I", said[b"gAMA"])[0] / 100_000
    if not 0.1 < gamma < 10:
        return None
    curve = SRGB_CURVE if abs(gamma - 0.45455) < 0.005 else 1 / gamma
    white_and_primaries = said.get(b"cHRM", b"")
    if len(white_and_primaries) != 32:
        return profile(SRGB, curve)
    return profile(tuple(v / 100_000 for v in struct.unpack(">8I", white_and_primaries)), curve)
