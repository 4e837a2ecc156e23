import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image

from ldm.core.keyed import generator
from ldm.data.pixels import normalise, to_pixels


def gradient(width: int, height: int) -> Image.Image:
    """Red runs with x, green with y."""
    x = np.linspace(0, 255, width).round().astype(np.uint8)
    y = np.linspace(0, 255, height).round().astype(np.uint8)
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0], rgb[..., 1] = x[None], y[:, None]
    return Image.fromarray(rgb)


@pytest.mark.parametrize("size", [(64, 64), (100, 40), (40, 100), (7, 9), (1, 1), (333, 32)])
@pytest.mark.parametrize("crop", ["center", "random"])
def test_pixels_are_a_square_of_bytes(size, crop):
    pixels = to_pixels(picture(0, *size), 32, crop, generator=generator(0))
    assert (pixels.shape, pixels.dtype) == ((3, 32, 32), torch.uint8)
    assert pixels.is_contiguous()


def test_an_image_of_the_right_size_is_left_alone():
    image = picture(0, 32, 32)
    assert np.array_equal(to_pixels(image, 32).permute(1, 2, 0).numpy(), np.asarray(image))


def test_the_middle_is_cropped():
    wide = to_pixels(gradient(256, 64), 64)
    assert abs(wide[0].float().mean() - 127.5) < 1
    assert abs(int(wide[0, 0, 0]) - 96) <= 1 and abs(int(wide[0, 0, -1]) - 159) <= 1
    tall = to_pixels(gradient(64, 256), 64)
    assert abs(int(tall[1, 0, 0]) - 96) <= 1 and abs(int(tall[1, -1, 0]) - 159) <= 1


def test_random_crops_reach_both_ends_and_are_keyed():
    wide = gradient(256, 64)
    left = [int(to_pixels(wide, 64, "random", generator=generator(i))[0, 0, 0]) for i in range(200)]
    assert min(left) < 10 and max(left) > 182
    assert abs(np.mean(left) - 96) < 5 * 55.4 / np.sqrt(200)
    again = to_pixels(wide, 64, "random", generator=generator(3))
    assert torch.equal(again, to_pixels(wide, 64, "random", generator=generator(3)))


def test_a_flip_mirrors_the_pixels():
    image = picture(0, 50, 40)
    assert torch.equal(to_pixels(image, 32, flip=True), to_pixels(image, 32).flip(-1))


def test_resizing_is_antialiased():
    """Stripes of one pixel become grey; sampling them would give black or white."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = to_pixels(Image.fromarray(stripes), 32).float()
    assert (pixels - 127.5).abs().max() < 12


def test_resizing_is_lanczos():
    image = picture(5, 128, 128)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS))
    assert np.array_equal(to_pixels(image, 32).permute(1, 2, 0).numpy(), expected)


def test_normalised_pixels_lie_in_minus_one_to_one():
    values = normalise(torch.tensor([0, 127, 128, 255], dtype=torch.uint8))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, torch.tensor([-1, -1 / 255, 1 / 255, 1]))
