"""What only a GPU can show: half precision with two optimizers, and the memory of strips."""

from pathlib import Path

import pytest
import torch

from autoencoder.latents import decode
from autoencoder.model import build_autoencoder
from autoencoder.tiling import InStrips
from ldm.training.tracking import read_metrics
from tests.autoencoder.test_train_autoencoder import experiment, train

__all__ = ["experiment"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def records(experiment: Path, name: str) -> list[dict]:
    return read_metrics(experiment / name / "autoencoder" / "metrics.jsonl")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_float32_on_both_sides(experiment, precision):
    more = ["autoencoder.train.steps=40", "autoencoder.train.evaluate_every=40"]
    assert train(experiment, "full", *more) == 0
    low = f"autoencoder.train.mixed_precision={precision}"
    assert train(experiment, precision, low, *more) == 0
    full, half = (records(experiment, name) for name in ("full", precision))
    for key in ("reconstruction", "kl", "discriminator"):
        expected = [r[key] for r in full if key in r]
        got = [r[key] for r in half if key in r]
        assert got == pytest.approx(expected, rel=0.1)
    psnr = [r["validation/psnr"] for r in (full[-1], half[-1])]
    assert psnr[1] == pytest.approx(psnr[0], abs=0.5)


def test_compiled_blocks_train_as_eager_ones(experiment):
    more = ["autoencoder.train.steps=12", "autoencoder.train.evaluate_every=12"]
    assert train(experiment, "eager", *more) == 0
    assert train(experiment, "compiled", "autoencoder.train.compile=true", *more) == 0
    eager, compiled = (records(experiment, name) for name in ("eager", "compiled"))
    for key in ("reconstruction", "discriminator"):
        expected = [r[key] for r in eager if key in r]
        assert [r[key] for r in compiled if key in r] == pytest.approx(expected, rel=0.02)


def test_strips_need_a_fraction_of_the_memory():
    torch.manual_seed(0)
    vae = build_autoencoder({"block_out_channels": [64, 64, 128, 128], "norm_num_groups": 32})
    vae = vae.eval().cuda()
    latents = torch.randn(1, 4, 192, 192)  # of an image of 1536 × 1536

    def peak(function) -> tuple[torch.Tensor, int]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            image = function()
        return image.float().cpu(), torch.cuda.max_memory_allocated()

    whole, whole_bytes = peak(lambda: decode(vae, latents))
    strips, strip_bytes = peak(lambda: decode(InStrips(vae, 2**17), latents))
    assert strip_bytes < whole_bytes / 3
    assert (strips - whole).abs().mean() < 1e-3  # TF32 convolutions; a seam would be 2/255
