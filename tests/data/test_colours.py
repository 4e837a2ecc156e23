"""Pixels are sRGB whatever the profile, and untouched where they were."""

import io
import struct
import zlib

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image, ImageCms

from ldm.data.pictures.bad import BadImage
from ldm.data.pictures.colours import _transform
from ldm.data.pictures.decoding import as_rgb, decode
from ldm.data.pictures.profiles import ADOBE, ADOBE_GAMMA, P3, SRGB, SRGB_CURVE, WIDE, profile

# sRGB to XYZ at D65 and the same for Display P3 (SMPTE EG 432-1), from their chromaticities
TO_XYZ = {
    "srgb": np.array([
        [0.4123908, 0.3575843, 0.1804808],
        [0.2126390, 0.7151687, 0.0721923],
        [0.0193308, 0.1191948, 0.9505322],
    ]),
    "p3": np.array([
        [0.4865709, 0.2656677, 0.1982173],
        [0.2289746, 0.6917385, 0.0792869],
        [0.0000000, 0.0451134, 1.0439444],
    ]),
}  # fmt: skip


def linear(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def coded(v: np.ndarray) -> np.ndarray:
    v = v.clip(0, 1)
    return np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)


def in_p3(rgb: np.ndarray) -> np.ndarray:
    """The P3 bytes of sRGB bytes, by the textbook."""
    matrix = np.linalg.inv(TO_XYZ["p3"]) @ TO_XYZ["srgb"]
    return np.rint(255 * coded(linear(rgb / 255) @ matrix.T)).astype(np.uint8)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, "it"), np.int16)


def lively(seed: int = 0) -> np.ndarray:
    """Colours that are not near the edge of sRGB, where 8 bits of P3 say little of it."""
    rng = np.random.default_rng(seed)
    return rng.integers(50, 206, (12, 20, 3)).astype(np.uint8)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def grey_profile(gamma: int = 2) -> bytes:
    """The least that says what grey means: a white point and an exponent."""
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, gamma * 256) + bytes(2)
    table = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 16)
    head = struct.pack(">I4sI4s4s4s12x4s", 192, b"", 0x02100000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    d50 = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return (head + bytes(28) + d50 + bytes(48))[:128] + table + white + curve


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_a_display_p3_photo_has_the_colours_of_its_srgb_twin(kind):
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    wide = Image.fromarray(in_p3(lively()))
    data = encoded(wide, kind, icc_profile=profile(P3, SRGB_CURVE), **options)
    assert np.abs(pixels(data) - lively()).max() <= (2 if kind != "JPEG" else 6)
    assert np.abs(np.asarray(wide, int) - lively()).max() > 20


def test_a_profile_of_srgb_leaves_every_pixel_as_it_is():
    for icc in (srgb_profile(), profile(SRGB, SRGB_CURVE)):
        for image in (picture(0), picture(1).convert("L"), picture(2).convert("P")):
            plain = pixels(encoded(image))
            assert np.array_equal(pixels(encoded(image, icc_profile=icc)), plain)


def test_alpha_is_kept_and_the_colours_under_it_are_converted():
    wide = Image.fromarray(in_p3(lively()))
    wide.putalpha(255)
    wide.putpixel((0, 0), (9, 9, 9, 0))
    found = pixels(encoded(wide, icc_profile=profile(P3, SRGB_CURVE)))
    assert found[0, 0].tolist() == [255] * 3
    assert np.abs(found - lively())[1:].max() <= 2


def test_a_palette_is_converted():
    wide = Image.fromarray(in_p3(lively())).quantize(16)
    srgb = pixels(encoded(wide.convert("RGB"), icc_profile=profile(P3, SRGB_CURVE)))
    assert np.array_equal(pixels(encoded(wide, icc_profile=profile(P3, SRGB_CURVE))), srgb)


@pytest.mark.parametrize("alpha", [False, True])
def test_grey_goes_by_a_profile_of_grey(alpha):
    grey = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    wanted = np.rint(255 * coded((np.arange(256) / 255) ** 2))
    if alpha:
        grey.putalpha(255)
    found = pixels(encoded(grey, "TIFF", icc_profile=grey_profile()))[0]
    assert np.abs(found - wanted[:, None])[2:].max() <= 2


def test_sixteen_bit_grey_goes_by_its_profile_too():
    deep = np.linspace(0, 65535, 256).round().astype(np.uint16)[None]
    found = pixels(encoded(Image.fromarray(deep), "TIFF", icc_profile=grey_profile()))[0, :, 0]
    assert np.abs(found - np.rint(255 * coded((np.arange(256) / 255) ** 2)))[2:].max() <= 2


def cmyk_profile() -> bytes:
    """lcms makes none: a device of four inks by a table of two steps, K alone making black."""
    inks = np.indices((2, 2, 2, 2)).reshape(4, -1).T
    light = (1 - inks[:, :3]) * (1 - inks[:, 3:]) * 0.8  # a white of 80 %, as of paper
    space = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    rgb = Image.fromarray(np.rint(light * 255).astype(np.uint8)[None])
    lab = np.frombuffer(space.apply(rgb).tobytes(), np.uint8).reshape(-1, 3) ^ [0, 128, 128]
    table = (lab.astype(np.uint16) << 8).astype(">u2").tobytes()
    ends = struct.pack(">4H", 0, 65535, 0, 65535)
    lut = b"mft2" + bytes(4) + struct.pack(">BBBB", 4, 3, 2, 0)
    lut += struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536) + struct.pack(">HH", 2, 2)
    lut += ends * 2 + table + struct.pack(">6H", *(0, 65535) * 3)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    table_of = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"A2B0", 176, len(lut))
    size = 176 + len(lut)
    head = struct.pack(
        ">I4sI4s4s4s12x4s", size, b"", 0x02100000, b"prtr", b"CMYK", b"Lab ", b"acsp"
    )
    head += bytes(28) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D) + bytes(48)
    return head[:128] + table_of + white + lut


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_goes_by_its_profile_and_plainly_without(kind):
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert _transform(cmyk_profile()) is not None
    told = pixels(encoded(red, kind, icc_profile=cmyk_profile()))[8, 8]
    plain = pixels(encoded(red, kind))[8, 8]
    assert np.abs(plain - [255, 0, 0]).max() <= 15
    assert told[0] > 180 and told[1:].max() < 60 and np.abs(told - plain).max() > 5


@pytest.mark.parametrize(
    "icc", [b"", b"no profile", srgb_profile()[:200], bytes(3000), grey_profile(), cmyk_profile()]
)
def test_a_profile_that_is_broken_or_of_other_images_is_passed_over(icc):
    image = picture(3)
    assert np.array_equal(pixels(encoded(image, "TIFF", icc_profile=icc)), np.asarray(image))


def test_what_was_converted_has_no_profile_that_would_be_applied_again():
    data = encoded(picture(0), icc_profile=profile(P3, SRGB_CURVE))
    image = decode(data, "it")
    assert "icc_profile" not in image.info
    assert np.array_equal(pixels(encoded(image)), np.asarray(image))
    opened = Image.open(io.BytesIO(data))
    assert np.array_equal(as_rgb(opened), image)
    assert "icc_profile" in opened.info


def with_chunks(image: Image.Image, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with chunks of our own after its header."""
    data = encoded(image)
    said = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return data[:33] + said + data[33:]


def gama(gamma: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(gamma * 100_000))


def chrm(primaries: tuple[float, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(v * 100_000) for v in primaries))


WIDE_ICC = b"iCCP", b"it\0\0" + zlib.compress(profile(P3, SRGB_CURVE) or b"")
IN_P3 = Image.fromarray(in_p3(lively()))


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"cICP", bytes([12, 13, 0, 1]))],
        [WIDE_ICC],
        [gama(0.45455), chrm(P3)],
        [(b"cICP", bytes([12, 13, 0, 1])), (b"sRGB", b"\0"), gama(1.0)],
        [WIDE_ICC, gama(1.0)],
    ],
)
def test_a_png_may_say_what_its_colours_are_in_any_of_four_ways(chunks):
    assert np.abs(pixels(with_chunks(IN_P3, *chunks)) - lively()).max() <= 2


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"sRGB", b"\0")],
        [gama(0.45455)],
        [gama(0.45455), chrm(SRGB)],
        [(b"sRGB", b"\0"), gama(1.0), chrm(P3)],
        [(b"cICP", bytes([1, 13, 0, 1])), WIDE_ICC],
        [chrm(P3)],
        [gama(0.0)],
        [(b"gAMA", b"")],
        [(b"iCCP", b"it\0\0broken")],
        [(b"cICP", b"")],
    ],
)
def test_a_png_that_says_srgb_or_nothing_is_left_as_it_is(chunks):
    assert np.array_equal(pixels(with_chunks(picture(0), *chunks)), np.asarray(picture(0)))


def test_a_linear_png_is_brightened():
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, -1)
    found = pixels(with_chunks(Image.fromarray(ramp), gama(1.0)))
    assert np.abs(found[0, 2:, 0] - np.rint(255 * coded(np.arange(256) / 255))[2:]).max() <= 2


@pytest.mark.parametrize("curve", [16, 18])
def test_a_png_of_a_high_dynamic_range_is_refused(curve):
    with pytest.raises(BadImage, match="high dynamic range"):
        pixels(with_chunks(picture(0), (b"cICP", bytes([9, curve, 0, 1]))))


@pytest.mark.parametrize(("space", "interop"), [(2, None), (65535, "R03")])
def test_a_camera_that_says_adobe_rgb_in_exif_alone_is_believed(space, interop):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = space
    if interop:
        exif.get_ifd(0x8769)[0xA005] = {1: interop}
    icc = profile(ADOBE, ADOBE_GAMMA)
    by_profile, by_exif = (
        pixels(encoded(picture(5), "JPEG", **said))
        for said in ({"icc_profile": icc}, {"exif": exif})
    )
    assert np.array_equal(by_exif, by_profile)
    assert not np.array_equal(by_exif, pixels(encoded(picture(5), "JPEG")))


@pytest.mark.parametrize("space", [1, 65535])
def test_other_colour_spaces_of_exif_change_nothing(space):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = space
    assert np.array_equal(
        pixels(encoded(picture(5), "JPEG", exif=exif)), pixels(encoded(picture(5), "JPEG"))
    )


@pytest.mark.parametrize(
    ("kind", "start"),
    [(b"zTXt", b"prompt\0\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0")],
)
def test_a_png_with_long_texts_is_read(kind, start):
    data = with_chunks(picture(0), (kind, start + zlib.compress(b"a" * 3_000_000)))
    assert np.array_equal(pixels(data), np.asarray(picture(0)))
    with pytest.raises(ValueError, match="Decompressed"):
        Image.open(io.BytesIO(data)).load()


def test_a_png_with_a_profile_of_over_a_megabyte_is_converted():
    padded = (profile(P3, SRGB_CURVE) or b"") + bytes(2**21)
    padded = struct.pack(">I", len(padded)) + padded[4:]
    data = with_chunks(IN_P3, (b"iCCP", b"it\0\0" + zlib.compress(padded)))
    assert np.abs(pixels(data) - lively()).max() <= 2


@pytest.mark.parametrize("compressed", [False, True])
def test_a_text_that_says_which_way_is_up_is_still_read(compressed):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    body = b"XML:com.adobe.xmp\0" + (
        b"\1\0\0\0" + zlib.compress(xmp) if compressed else b"\0" * 4 + xmp
    )
    found = decode(with_chunks(picture(0), (b"iTXt", body)), "it")
    assert found.size == (30, 40)


@pytest.mark.parametrize("primaries", [SRGB, P3, WIDE, ADOBE])
def test_white_and_grey_of_any_primaries_stay_so(primaries):
    transform = _transform(profile(primaries, 1.8))
    assert transform is not None
    greys = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, -1)
    found = np.asarray(transform[1].apply(Image.fromarray(greys)), np.int16)[0]
    assert found[255].tolist() == [255] * 3 and np.ptp(found, axis=-1).max() <= 1


@pytest.mark.parametrize("numbers", [(0.0,) * 8, (0.3,) * 8, SRGB[:2] + (0.0, 0.0) * 3])
def test_chromaticities_of_no_colours_are_no_profile(numbers):
    assert profile(numbers, 2.2) is None
