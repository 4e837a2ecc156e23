"""Tiny autoencoders and a source of images for the tests of this folder."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autoencoder.model import build_autoencoder
from ldm.data.drawn import DrawnFlowers, draw, truth


@pytest.fixture
def vae():
    """f4 with random weights whose latents are neither centred nor scaled."""
    torch.manual_seed(0)
    model = build_autoencoder({"block_out_channels": [8, 16, 16], "norm_num_groups": 4}).eval()
    with torch.no_grad():
        model.quant_conv.weight *= torch.tensor([3.0, 0.5, 7, 1, 1, 1, 1, 1])[:, None, None, None]
        model.quant_conv.bias += torch.tensor([2.0, -1, 0, 5, -6, -3, -5, -4])
    return model


@pytest.fixture
def flowers() -> torch.Tensor:
    """Eight drawn flowers, (8, 3, 32, 32) in [-1, 1]."""
    pictures = np.stack([np.asarray(draw(truth(i), 32)) for i in range(8)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


class KeptFlowers(DrawnFlowers):
    """Draws each flower once for all tests."""

    drawn = lru_cache(maxsize=None)(DrawnFlowers(40, 32).image)

    def image(self, index: int) -> Image.Image:
        return KeptFlowers.drawn(index)


@pytest.fixture
def source() -> DrawnFlowers:
    return KeptFlowers(40, 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "train"
