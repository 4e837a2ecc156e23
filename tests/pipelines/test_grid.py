"""A grid shows every image once, under its caption."""

import numpy as np
import pytest
from PIL import Image

from pipelines.sheets.grid import captioned_grid

COLOURS = [(255, 0, 0), (0, 160, 0), (0, 0, 255)]


def plain(colour, size=64):
    return Image.new("RGB", (size, size), colour)


def count(grid, colour):
    return int((np.asarray(grid) == colour).all(-1).sum())


@pytest.mark.parametrize("columns", [None, 1, 2])
def test_every_image_is_shown_whole_and_enlarged(columns):
    grid = captioned_grid([("three", [plain(c) for c in COLOURS])], columns=columns)
    assert [count(grid, c) for c in COLOURS] == [128 * 128] * 3


def test_a_caption_takes_room_and_its_absence_does_not():
    images = [plain(c) for c in COLOURS]
    with_caption, without = (captioned_grid([(c, images)]) for c in ("a red flower", ""))
    assert with_caption.height - without.height >= 13
    assert count(without, (30, 30, 30)) == 0 and count(with_caption, (30, 30, 30)) > 20


def test_a_caption_of_44_000_characters_is_shortened():
    images = [plain(c) for c in COLOURS]
    for caption in ("x" * 44_000, "a word " * 6_300, "花" * 44_000):
        assert captioned_grid([(caption, images)]).height < 400


def test_small_pixels_stay_squares():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    shown = np.asarray(captioned_grid([("", [image])]))[6 : 6 + 128, 6 : 6 + 128]
    assert np.array_equal(shown[::2, ::2], image) and np.array_equal(shown[1::2, 1::2], image)
