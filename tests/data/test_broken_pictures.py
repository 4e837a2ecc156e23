"""Whatever bytes a picture has, it is decoded or is a BadImage, and nothing else happens."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import encoded, picture
from PIL import Image
from test_colours import WIDE_ICC, with_chunks
from tiffs import tiff

from ldm.data.pictures.bad import BadImage
from ldm.data.pictures.decoding import decode
from ldm.data.pictures.profiles import P3, SRGB_CURVE, profile


def sound() -> dict[str, bytes]:
    """Small pictures of every format that is read, and of the ways to store them that differ."""
    image, icc = picture(0, 24, 18), profile(P3, SRGB_CURVE)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA001] = 2
    found = {kind: encoded(image, kind) for kind in ("BMP", "GIF", "PPM", "JPEG2000")}
    Image.init()
    has_avif = ["AVIF"] if "AVIF" in Image.SAVE else []  # since Pillow 11.3
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", *has_avif):
        found[kind] = encoded(image, kind, exif=exif, icc_profile=icc)
    frames = [picture(k, 24, 18) for k in (1, 2)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        found[f"animated {kind}"] = encoded(image, kind, save_all=True, append_images=frames)
    for kind in ("PNG", "WEBP"):
        found[f"clear {kind}"] = encoded(image.convert("RGBA"), kind)
    for packing in ("tiff_lzw", "jpeg", "packbits", "tiff_deflate"):
        found[packing] = encoded(image, "TIFF", compression=packing)
    deep = (np.asarray(image, np.uint16) << 4).clip(0, 4095)
    found |= {
        "CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "progressive": encoded(image, "JPEG", progressive=True),
        "palette": encoded(image.quantize(8)),
        "16 bits": tiff(deep, planar=True),
        "16 bits, deflated": tiff(deep, deflate=True, big=True),
        "floats": tiff(deep[..., 0].astype(np.float32)),
        "chunks": with_chunks(
            image, WIDE_ICC, (b"zTXt", b"a\0\0"), (b"cICP", bytes([12, 13, 0, 1]))
        ),
    }
    return found


SOUND = sound()
place = st.integers(0, 2**16)
damage = st.one_of(
    st.tuples(st.just("cut"), place, place),
    st.tuples(st.just("drop"), place, place),
    st.tuples(st.just("double"), place, place),
    st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=8),
)


def damaged(data: bytes, how: object) -> bytes:
    if isinstance(how, list):
        broken = bytearray(data)
        for at, value in how:
            broken[at % len(data)] = value
        return bytes(broken)
    kind, *places = how
    start, end = sorted(p % len(data) for p in places)
    parts = {"cut": (data[:start],), "drop": (data[:start], data[end:])}
    return b"".join(parts.get(kind, (data[:end], data[start:])))


def check(kind: str, how: object) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            assert decode(damaged(SOUND[kind], how), "it").mode == "RGB"
        except BadImage as bad:
            assert bad.name == "it" and bad.reason and "\n" not in bad.reason
    assert not told


@pytest.mark.parametrize("kind", SOUND)
def test_what_is_not_damaged_is_decoded(kind):
    assert min(decode(SOUND[kind], "it").size) == 18


@settings(max_examples=150, deadline=20_000, database=None)
@given(st.sampled_from(sorted(SOUND)), damage)
def test_damaged_pictures_are_decoded_or_bad_and_nothing_else(kind, how):
    check(kind, how)


@pytest.mark.slow
@settings(
    max_examples=10_000, deadline=20_000, database=None, suppress_health_check=list(HealthCheck)
)
@given(st.sampled_from(sorted(SOUND)), damage)
def test_thousands_of_damaged_pictures_are_decoded_or_bad_and_nothing_else(kind, how):
    check(kind, how)
