"""The figures and pictures of an evaluation."""

import pytest
import torch

from autoencoder.evaluation import held_out_pixels, psnr, tiled
from ldm.core.errors import UserError
from ldm.data.order import subset
from ldm.data.pictures.bad import BadImage
from ldm.data.pixels import as_bytes
from ldm.data.source import Subset


def test_psnr_is_ten_decibels_for_each_factor_of_ten_in_squared_error():
    x = torch.zeros(3, 3, 8, 8)
    error = torch.tensor([2.0, 0.2, 0.02])[:, None, None, None]  # of a range of 2
    torch.testing.assert_close(psnr(x, x + error), torch.tensor([0.0, 20.0, 40.0]))


def test_held_out_images_are_spread_over_the_whole_source(source, monkeypatch):
    monkeypatch.setattr("autoencoder.evaluation.MOST_PIXELS", 4 * 32 * 32)
    pixels = held_out_pixels(source, 32)
    assert pixels.shape == (4, 3, 32, 32)
    chosen = subset(len(source), 4)
    assert max(chosen) >= len(source) // 2
    assert torch.equal(pixels, held_out_pixels(Subset(source, chosen), 32))


def test_a_bad_image_is_left_out_and_none_at_all_is_refused(source, monkeypatch):
    fetch = type(source).image

    def broken(self, i):
        if i == 1:
            raise BadImage("1", "it is broken")
        return fetch(self, i)

    monkeypatch.setattr(type(source), "image", broken)
    assert len(held_out_pixels(Subset(source, [0, 1, 2]), 32)) == 2
    with pytest.raises(UserError, match=r"data\.holdout"):
        held_out_pixels(Subset(source, []), 32)
    with pytest.raises(UserError, match="none of the 1 images can be read"):
        held_out_pixels(Subset(source, [1]), 32)


def test_a_picture_has_its_rows_below_each_other():
    black, white = -torch.ones(2, 3, 4, 4), 5 * torch.ones(2, 3, 4, 4)  # clipped
    picture = tiled([black, white])
    assert picture.size == (8, 8)
    assert picture.getpixel((7, 3)) == (0, 0, 0) and picture.getpixel((0, 4)) == (255, 255, 255)
    assert as_bytes(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [0, 128, 255]
