"""The comparison of latents with pixels runs whole, and counts what it says it counts."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn

from autoencoder.model import build_autoencoder
from benchmarks import latent_vs_pixel
from ldm.core.errors import UserError

SMALL = [
    *("data.size=40", "data.workers=0", "train.batch_size=2", "train.mixed_precision=no"),
    *("sample.num_inference_steps=2", "unet.block_out_channels=[32, 32]"),
    "unet.layers_per_block=1",
]


def compared(folder: Path, **changes) -> list[dict]:
    build_autoencoder({"block_out_channels": [8, 8, 8], "norm_num_groups": 4}).save_pretrained(
        folder / "vae"
    )
    options = {
        "settings": SMALL,
        "autoencoder": [f"16={folder / 'vae'}"],
        "minutes": 0.01,
        "same": True,
        "samples": 3,
        "features": "random",
        "timed": 1,
        "out": folder / "out",
    }
    latent_vs_pixel.compare(Namespace(**options | changes))
    return json.loads((folder / "out.json").read_text())


@pytest.mark.slow
def test_costs_alone_of_the_two_that_compete(tmp_path):
    latent, pixel = compared(tmp_path, minutes=0, same=False)
    assert (latent["name"], pixel["name"]) == ("latent", "pixel")
    assert latent["elements"] == 4 * 4 * 4 and pixel["elements"] == 3 * 16 * 16
    assert pixel["activations_gib"] > 2 * latent["activations_gib"] > 0
    for figures in (latent, pixel):
        assert figures["seconds_per_step"] > 0 and figures["seconds_per_sample"] > 0
    written = (tmp_path / "out.md").read_text()
    assert "| latent, 16 px | 64 " in written and "(12.0×)" in written
    assert "Fréchet" not in written and not (tmp_path / "out.png").exists()


@pytest.mark.slow
def test_a_whole_comparison_is_written(tmp_path):
    figures = {f["name"]: f for f in compared(tmp_path)}
    assert set(figures) == {"latent", "pixel", "pixel, same"}
    latent, same = figures["latent"], figures["pixel, same"]
    assert same["activations_gib"] > 5 * latent["activations_gib"]
    assert same["parameters"] == pytest.approx(latent["parameters"], rel=0.01)
    assert "curve" not in same
    for name in ("latent", "pixel"):
        points = [(point["minutes"], point["steps"]) for point in figures[name]["curve"]]
        assert sorted(set(points)) == points and len(points) == 3 and points[-1][0] >= 0.01
    assert "0.01 minutes each" in (tmp_path / "out.md").read_text()
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_what_is_kept_for_the_backward_pass_is_counted_without_parameters():
    layer = nn.Linear(256, 1024, bias=False)
    x = torch.zeros(64, 256)
    with latent_vs_pixel.kept_for_backward() as kept:
        y = layer(x).relu()
    assert kept == [4 * (64 * 256 + 64 * 1024)]  # the linear layer's input and relu's output
    assert y.requires_grad


def test_an_autoencoder_without_its_resolution_is_refused(tmp_path):
    with pytest.raises(UserError, match="RESOLUTION=FOLDER"):
        compared(tmp_path, autoencoder=["runs/x"])
