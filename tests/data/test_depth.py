"""Samples of more than 8 bits are scaled by what they hold, or refused with the reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from pictures import encoded
from PIL import Image
from tiffs import tiff

from ldm.data.pictures.bad import BadImage
from ldm.data.pictures.decoding import decode


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, "it"))


def scene(channels: int = 1) -> np.ndarray:
    """Values in [0, 1], both ends among them, (12, 20) or (12, 20, C)."""
    values = np.random.default_rng(0).random((12, 20, channels))
    values[0, 0], values[-1, -1] = 1, 0
    return values if channels > 1 else values[..., 0]


def assert_is(data: bytes, values: np.ndarray) -> None:
    """Within rounding: stored in few bits, and then in 8."""
    wanted = np.rint(values * 255)
    wanted = wanted if wanted.ndim == 3 else wanted[..., None].repeat(3, -1)
    assert np.abs(pixels(data) - wanted).max() <= 1


LAYOUTS = [
    pytest.param(
        dict(big=big, deflate=deflate), id=f"{'MM' if big else 'II'}{'-deflated' * deflate}"
    )
    for big in (False, True)
    for deflate in (False, True)
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_fewer_bits_stored_in_16_are_scaled_by_what_they_hold(bits, layout):
    stored = np.rint(scene() * (2**bits - 1)).astype(np.uint16)
    assert_is(tiff(stored, **layout), scene())
    colours = np.rint(scene(3) * (2**bits - 1)).astype(np.uint16)
    assert_is(tiff(colours, **layout), scene(3))
    if bits == 16 or not layout["deflate"]:
        assert_is(tiff(colours, planar=True, **layout), scene(3))


def png(samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """RGB of 16 bits, which Pillow does not write."""
    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    said = ((b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in said
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_fewer_bits_are_read_of_images_that_lie_on_their_side_too(kind):
    values = scene(3)[:, :12]  # a square, of which no shape would tell
    stored = np.rint(values * 4095).astype(np.uint16)
    exif = struct.pack("<4sIHHHIHHI", b"II*\0", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    data = tiff(stored, tags={274: 6}) if kind == "TIFF" else png(stored, (b"eXIf", exif))
    assert_is(data, np.rot90(values, -1))


def test_a_clear_colour_of_16_bits_lies_over_white():
    stored = np.rint(scene(3) * 65535).astype(np.uint16)
    stored[2, 3] = 0x1234, 0x4567, 0x89AB
    clear = struct.pack(">3H", *stored[2, 3])
    found = pixels(png(stored, (b"tRNS", clear)))
    assert found[2, 3].tolist() == [255] * 3
    assert (found == 255).all(-1).sum() <= 2


def test_compressed_planes_that_hold_fewer_bits_are_refused():
    colours = np.rint(scene(3) * 4095).astype(np.uint16)
    with pytest.raises(BadImage, match="hold fewer bits"):
        pixels(tiff(colours, planar=True, deflate=True))


@pytest.mark.parametrize("bits", [8, 12])
def test_sixteen_bit_pngs_are_scaled_alike(bits):
    stored = np.rint(scene() * (2**bits - 1)).astype(np.uint16)
    assert_is(encoded(Image.fromarray(stored)), scene())


def test_transparency_of_16_bits_is_scaled_too():
    stored = np.rint(scene(4) * 4095).astype(np.uint16)
    stored[..., 3] = 4095
    stored[0, 1, 3] = 0
    found = pixels(tiff(stored))
    assert found[0, 1].tolist() == [255] * 3
    assert np.abs(found[1:] - np.rint(scene(4)[1:, :, :3] * 255)).max() <= 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("kind", "white"),
    [(np.int16, 4095), (np.int16, 2**15 - 1), (np.int32, 65535), (np.int32, 2**31 - 1)],
)
def test_signed_integers_without_negative_ones_are_read(kind, white, layout):
    assert_is(tiff(np.rint(scene() * white).astype(kind), **layout), scene())


@pytest.mark.parametrize("white", [255, 65535, 2**32 - 1])
def test_unsigned_integers_of_32_bits_are_read(white):
    assert_is(tiff(np.rint(scene() * white).astype(np.uint32)), scene())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("white", [1, 255, 1023, 65535])
def test_floats_are_read_by_the_range_that_holds_them(white, layout):
    assert_is(tiff((scene() * white).astype(np.float32), **layout), scene())


def test_floats_of_old_keep_their_bytes():
    ramp = np.linspace(0, 1, 16, dtype=np.float32)[None]
    assert np.array_equal(pixels(tiff(ramp))[0, :, 0], np.arange(16) * 17)
    wide = np.array([[0, 100, 255]], dtype=np.float32)
    assert pixels(tiff(wide))[0, :, 0].tolist() == [0, 100, 255]


def test_what_resampling_takes_beyond_the_range_is_clipped():
    values = (scene() * 1.08 - 0.04).astype(np.float32)
    assert_is(tiff(values), values.clip(0, 1))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.where(scene() > 0.9, np.nan, scene()).astype(np.float32), "not numbers"),
        (np.where(scene() > 0.9, np.inf, scene()).astype(np.float32), "infinite"),
        ((scene() * 2 - 1).astype(np.float32), "which is black is not known"),
        ((scene() * 3000 - 1000).astype(np.int16), "from -1000 to 2000, so which is black"),
        ((scene() ** 8 * 50).astype(np.float32), "high dynamic range, its values reach 50"),
        ((scene() * 1e9).astype(np.float32), "which is white is not known"),
        (scene().astype(np.float64), "cannot be decoded"),
        (scene(3).astype(np.float32), "cannot be decoded"),
    ],
)
def test_samples_that_are_no_picture_are_refused_with_the_reason(samples, reason):
    with pytest.raises(BadImage, match=reason):
        pixels(tiff(samples))


def test_a_declared_highest_value_says_what_is_white():
    assert_is(tiff(np.rint(scene() * 16383).astype(np.uint16), tags={281: 16383}), scene())
    dark = np.rint(scene() * 200).astype(np.uint16)
    assert_is(tiff(dark, tags={281: 65535}), scene() * 200 / 65535)


def test_a_dark_image_of_which_a_sixteenth_is_used_stays_dark():
    dark = np.full((4, 4), 5000, dtype=np.uint16)
    for data in (encoded(Image.fromarray(dark)), tiff(dark)):
        assert pixels(data).max() == pixels(data).min() == 19


def test_where_white_is_zero_it_is_white():
    stored = np.rint((1 - scene()) * 65535).astype(np.uint16)
    assert_is(tiff(stored, tags={262: 0}), scene())


def test_a_clear_grey_of_16_bits_lies_over_white():
    stored = np.array([[1000, 65535, 30000]], np.uint16)
    data = encoded(Image.fromarray(stored), transparency=1000)
    assert Image.open(io.BytesIO(data)).mode.startswith("I")
    assert pixels(data)[0, :, 0].tolist() == [255, 255, 117]


@pytest.mark.parametrize("samples", [np.zeros((3, 3), np.uint16), np.zeros((3, 3, 3), np.uint16)])
def test_a_black_image_is_black(samples):
    assert pixels(tiff(samples)).max() == 0
