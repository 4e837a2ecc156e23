import io
import os
import pickle
import struct
import subprocess
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image, ImageCms, ImageFile

from ldm.data.pictures import decoding
from ldm.data.pictures.bad import BadImage
from ldm.data.pictures.decoding import as_rgb, decode


def pixels(data: bytes) -> np.ndarray:
    image = decode(data, "it")
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_honoured(orientation, kind):
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste("white", (0, 0, 8, 8))  # top left
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for turn in turns.get(orientation, []):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(encoded(stored, kind, exif=exif))
    assert found.shape == (16, 32, 3)
    assert np.abs(found.astype(int) - np.asarray(upright)).mean() < 6


def test_a_broken_exif_block_does_not_cost_the_image():
    data = encoded(picture(0), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff broken")
    assert pixels(data).shape == (30, 40, 3)


def test_transparency_lies_over_white():
    image = Image.new("RGBA", (4, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (200, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    found = pixels(encoded(image))[0]
    assert found[0].tolist() == [200, 0, 0]
    assert found[1].tolist() == [255, 255, 255]
    assert found[2].tolist() == [127, 127, 127]


def test_a_palette_with_a_transparent_colour_lies_over_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((1, 0), 1)
    found = pixels(encoded(image, transparency=0))[0]
    assert found.tolist() == [[255, 255, 255], [200, 100, 0]]


def test_an_rgb_image_with_a_transparent_colour_lies_over_white():
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    found = pixels(encoded(image, transparency=(1, 2, 3)))[0]
    assert found.tolist() == [[255, 255, 255], [9, 9, 9]]


def test_grey_with_alpha_lies_over_white():
    image = Image.new("LA", (2, 1), (40, 255))
    image.putpixel((1, 0), (40, 0))
    assert pixels(encoded(image))[0].tolist() == [[40] * 3, [255] * 3]


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palette_images_become_rgb(mode):
    image = picture(0).convert("L").convert(mode)
    assert np.array_equal(pixels(encoded(image)), np.asarray(image.convert("RGB")))


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red
    assert np.abs(pixels(encoded(image, "TIFF"))[0, 0].astype(int) - [255, 0, 0]).max() <= 1
    red = pixels(encoded(image, "JPEG", quality=100))[4, 4]
    assert red[0] > 240 and red[1:].max() < 15


def test_lab_becomes_rgb():
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    orange = Image.new("RGB", (4, 4), (230, 120, 20))
    lab = ImageCms.profileToProfile(orange, *spaces, outputMode="LAB")
    assert np.abs(pixels(encoded(lab, "TIFF"))[0, 0].astype(int) - [230, 120, 20]).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(2, axis=0)
    data = encoded(Image.fromarray(ramp), kind)
    assert Image.open(io.BytesIO(data)).mode.startswith("I")
    found = pixels(data)
    assert np.array_equal(found[0, :, 0], np.arange(256))
    assert np.array_equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind):
    frames = [Image.new("RGB", (16, 16), c) for c in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert pixels(data)[8, 8].tolist() == [255, 0, 0]


def test_an_opaque_rgb_image_keeps_its_pixels():
    assert np.array_equal(pixels(encoded(picture(1))), np.asarray(picture(1)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("left", [0.0, 0.2, 0.7, 0.95])
def test_a_truncated_image_is_bad(kind, left):
    rng = np.random.default_rng(0)
    busy = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(busy, kind)
    with pytest.raises(BadImage, match=r"^it: "):
        decode(data[: int(len(data) * left)], "it")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("most", [2**27, 400])  # pixels that are decoded at full size
def test_a_jpeg_that_was_cut_off_and_closed_is_bad(monkeypatch, mode, options, most):
    monkeypatch.setattr("ldm.data.pictures.decoding.MANY_PIXELS", most)
    grain = np.random.default_rng(0).integers(0, 256, (31, 41, 4), np.uint8)
    image = Image.fromarray(grain, "RGBX").convert("RGB").convert(mode)
    data = encoded(image, "JPEG", **options)
    for share in (0.6, 0.8):
        with pytest.raises(BadImage, match="is cut off, though an end was put to it"):
            decode(data[: int(share * len(data))] + b"\xff\xd9", "x")
    image.paste(128, (0, 16, 41, 31)) if mode == "L" else image.paste("#808080", (0, 16, 41, 31))
    whole = encoded(image, "JPEG", **options)  # a border of that very grey
    assert decode(whole, "x") and decode(whole + b"trailer\xff\xd9", "x")


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_bad(data):
    with pytest.raises(BadImage):
        decode(data, "it")


def test_flipped_bytes_are_bad_or_decoded_but_nothing_else():
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF"):
        data = bytearray(encoded(picture(2), kind))
        for _ in range(60):
            broken = bytearray(data)
            for place in rng.integers(0, len(data), 4):
                broken[place] = rng.integers(256)
            try:
                assert decode(bytes(broken), "it").mode == "RGB"
            except BadImage as bad:
                assert bad.reason


def test_a_decompression_bomb_is_bad_and_never_decoded(monkeypatch):
    header = b"IHDR" + struct.pack(">II", 15_000, 12_000) + encoded(picture(0))[24:29]
    start, rest = encoded(picture(0))[:12], encoded(picture(0))[33:]
    bomb = start + header + struct.pack(">I", zlib.crc32(header)) + rest
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    with pytest.raises(BadImage, match="oversized, 15000x12000"):
        decode(bomb, "it")


def test_an_image_of_an_absurd_shape_is_bad(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    with pytest.raises(BadImage, match="oversized, 65536x1"):
        decode(encoded(Image.new("1", (65_536, 1))), "it")


def test_the_largest_image_is_still_decoded(monkeypatch):
    monkeypatch.setattr(decoding, "MOST_PIXELS", 40 * 30)
    assert decode(encoded(picture(0)), "it").size == (40, 30)
    with pytest.raises(BadImage, match="oversized, 41x30"):
        decode(encoded(picture(0, 41)), "it")


def test_a_missing_file_is_bad(tmp_path):
    with pytest.raises(BadImage, match="no such file"):
        decode(tmp_path / "gone.png", "gone.png")


def test_a_folder_is_bad(tmp_path):
    with pytest.raises(BadImage, match="not a file but a folder"):
        decode(tmp_path, "folder")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_or_a_device_is_bad_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", "/dev/zero"):
        with pytest.raises(BadImage, match="a pipe or a device"):
            decode(path, "it")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "but PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(60), "but PostScript"),
        (b"%PDF-1.7 ...", "but PDF"),
        (b" <!DOCTYPE html><html>not found</html>", "but a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "but HEIC"),
        (b"", "is empty"),
        (b"/* XPM */\nstatic char * x[] = {", "no picture of a kind that is read: JPEG, PNG"),
        (b"GRIB\0\0\0\0" + bytes(20), "no picture of a kind that is read"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "no picture of a kind that is read"),
    ],
)
def test_only_pictures_are_opened_whatever_their_name(data, told, tmp_path, monkeypatch):
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(BadImage, match=told):
        decode(tmp_path / "x.jpg", "x.jpg")


def test_many_threads_leave_the_filters_of_warnings_as_they_were():
    damaged = encoded(picture(0), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0" + b"\x12\x01" * 40)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda _: decode(damaged, "it"), range(64)))) == 64
    assert warnings.filters == before


def test_nothing_is_warned_of_while_decoding():
    damaged = encoded(picture(0), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0" + b"\x12\x01" * 40)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        decode(damaged, "it")
    assert not told


def test_a_giant_jpeg_is_decoded_at_half_its_size(monkeypatch):
    monkeypatch.setattr(decoding, "MANY_PIXELS", 40 * 30 - 1)
    whole = picture(0)
    half = decode(encoded(whole, "JPEG", quality=95), "it")
    assert half.size == (20, 15)
    difference = np.asarray(half, int) - np.asarray(whole.resize((20, 15), Image.Resampling.BOX))
    assert np.abs(difference).mean() < 2


def test_as_rgb_is_what_training_sees_and_leaves_the_image_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = picture(0).convert("RGBA")
    clear.putpixel((0, 0), (9, 9, 9, 0))
    data = encoded(clear, exif=exif)
    image = Image.open(io.BytesIO(data))
    seen = as_rgb(image)
    assert np.array_equal(np.asarray(seen), pixels(data))
    assert (seen.mode, seen.size, image.mode, image.size) == ("RGB", (30, 40), "RGBA", (40, 30))


def test_a_bad_image_survives_the_way_between_processes():
    bad = pickle.loads(pickle.dumps(BadImage("a.png", "broken")))
    assert (bad.name, bad.reason, str(bad)) == ("a.png", "broken", "a.png: broken")
