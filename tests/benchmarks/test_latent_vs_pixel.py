"""The comparison of latents with pixels runs whole, and counts what it says it counts."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn

from autoencoder.model import build_autoencoder
from ldm.core.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import latent_vs_pixel
import latent_vs_pixel_contestants


def options(folder: Path, **changes) -> Namespace:
    build_autoencoder({"block_out_channels": [8, 8, 8], "norm_num_groups": 4}).save_pretrained(
        folder / "vae"
    )
    settings = {
        "data": "drawn",
        "autoencoder": [f"16={folder / 'vae'}"],
        "minutes": 0.01,
        "same": True,
        "batch": 2,
        "learning_rate": 1e-4,
        "samples": 3,
        "sampling_steps": 2,
        "features": "random",
        "size": 60,
        "workers": 0,
        "warm": 1,
        "timed": 1,
        "device": "cpu",
        "bf16": False,
        "out": folder / "out",
    }
    return Namespace(**settings | changes)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(latent_vs_pixel_contestants, "CORE", (32, 32))
    monkeypatch.setattr(latent_vs_pixel_contestants, "OUTER", 32)


def test_a_whole_comparison_is_written(tmp_path, small):
    latent_vs_pixel.compare(options(tmp_path))
    figures = {f["name"]: f for f in json.loads((tmp_path / "out.json").read_text())}
    assert set(figures) == {"latent", "pixel", "pixel, same"}
    assert figures["latent"]["elements"] == 4 * 4 * 4
    assert figures["pixel"]["elements"] == figures["pixel, same"]["elements"] == 3 * 16 * 16
    same = figures["pixel, same"]
    assert same["activations_gib"] > 5 * figures["latent"]["activations_gib"]
    assert same["parameters"] == pytest.approx(figures["latent"]["parameters"], rel=0.01)
    for name in ("latent", "pixel"):
        steps = [point["steps"] for point in figures[name]["curve"]]
        assert steps == sorted(steps) and len(steps) == 3
    written = (tmp_path / "out.md").read_text()
    assert "| latent, 16 px | 64 " in written and "(12.0×)" in written
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_costs_alone_of_the_two_that_compete(tmp_path, small):
    latent_vs_pixel.compare(options(tmp_path, minutes=0, same=False))
    figures = json.loads((tmp_path / "out.json").read_text())
    assert [f["name"] for f in figures] == ["latent", "pixel"]
    assert all(f["seconds_per_sample"] > 0 and "curve" not in f for f in figures)
    assert "Fréchet distance to" not in (tmp_path / "out.md").read_text()
    assert not (tmp_path / "out.png").exists()


def test_what_is_kept_for_the_backward_pass_is_counted_without_parameters():
    layer = nn.Linear(256, 1024, bias=False)
    x = torch.zeros(64, 256)
    with latent_vs_pixel.kept_for_backward() as kept:
        y = layer(x).relu()
    assert kept == [4 * (64 * 256 + 64 * 1024)]  # the linear layer's input and relu's output
    assert y.requires_grad


def test_an_autoencoder_without_its_resolution_is_refused(tmp_path):
    with pytest.raises(UserError, match="RESOLUTION=FOLDER"):
        latent_vs_pixel.compare(options(tmp_path, autoencoder=["runs/x"]))
