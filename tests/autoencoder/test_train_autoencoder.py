"""Stage 1 end to end, in processes of its own: killed, resumed, distributed, exported."""

import json
import os
import shutil
import signal
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from autoencoder.model import build_autoencoder
from ldm.data.drawn import draw, truth
from ldm.training.tracking import read_metrics
from tests.damage import DAMAGES
from tests.training_processes import run, run_distributed

YAML = """
data: {source: drawn, size: 24, resolution: 16, workers: 0}
autoencoder:
  model: {block_out_channels: [8, 8], norm_num_groups: 4}
  loss: {kl: 1e-3, perceptual: 0.3, adversarial: 0.5, adversarial_start: 2, r1: 0.1, lecam: 0.01}
  train: {steps: 6, batch_size: 4, warmup: 2, learning_rate: 1e-3, epsilon: 1e-6, ema_decay: 0.9,
          checkpoint_every: 2, evaluate_every: 3, tracker: none}
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "tiny.yaml").write_text(YAML)
    return folder


def train(experiment: Path, name: str, *more: str, before=None, world: int = 1):
    settings = ["train_autoencoder", experiment / "tiny.yaml"]
    overrides = [f"output={experiment}", f"name={name}", *more]
    if world > 1:
        return run_distributed(*settings, overrides, world, before)
    return run(*settings, overrides, before)


def last_checkpoint(experiment: Path, name: str) -> Path:
    return max((experiment / name / "autoencoder" / "checkpoints").glob("step_*"))


def manifest(experiment: Path, name: str) -> dict[str, str]:
    return json.loads((last_checkpoint(experiment, name) / "manifest.json").read_text())


@pytest.fixture(scope="module")
def unbroken(experiment) -> dict[str, str]:
    assert train(experiment, "unbroken") == 0
    assert last_checkpoint(experiment, "unbroken").name == "step_0000006"
    return manifest(experiment, "unbroken")


def _at_call(module: str, owner: str, function: str, call: int, act) -> None:
    place = getattr(import_module(module), owner) if owner else import_module(module)
    real, calls = getattr(place, function), 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            act()
        return real(*args, **kwargs)

    setattr(place, function, counted)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before_the_adversarys_step() -> None:
    # calls 7 and 8 are the two optimizers' in the fourth step
    _at_call("ldm.training.optim", "GuardedStep", "__call__", 8, _kill)


def die_while_writing_a_checkpoint() -> None:
    _at_call("ldm.core.sums", "", "sha256", 9, _kill)


@pytest.mark.parametrize("death", [die_before_the_adversarys_step, die_while_writing_a_checkpoint])
def test_a_killed_run_ends_bitwise_where_an_unbroken_one_does(experiment, unbroken, death):
    """Weights, EMA and both optimizers: the manifest has the SHA-256 of every file."""
    assert train(experiment, death.__name__, before=death) == -signal.SIGKILL
    assert last_checkpoint(experiment, death.__name__).name == "step_0000002"
    assert train(experiment, death.__name__) == 0
    assert manifest(experiment, death.__name__) == unbroken
    files = {"model.adversary", "optimizer.adversary", "model.autoencoder", "ema"}
    assert {f"{name}.safetensors" for name in files} < set(unbroken)


def test_two_processes_and_accumulation_end_where_one_process_does(experiment, unbroken):
    accumulated = "autoencoder.train.accumulation=2"
    assert train(experiment, "accumulated", accumulated) == 0
    assert train(experiment, "split", world=2) == [0, 0]
    one = last_checkpoint(experiment, "unbroken")
    for name in ("accumulated", "split"):
        for file in ("model.autoencoder", "model.adversary", "ema"):
            mine = load_file(last_checkpoint(experiment, name) / f"{file}.safetensors")
            for key, value in load_file(one / f"{file}.safetensors").items():
                torch.testing.assert_close(mine[key], value, atol=1e-5, rtol=1e-4)


def test_figures_and_verdicts_are_recorded(experiment, unbroken):
    records = read_metrics(experiment / "unbroken" / "autoencoder" / "metrics.jsonl")
    trained = [r for r in records if "loss" in r]
    assert {"kl", "perceptual", "generator", "discriminator", "accuracy"} <= set(trained[-1])
    judged = [r for r in records if "validation/psnr" in r]
    assert [r["step"] for r in judged] == [3, 6]
    assert judged[-1]["verdict/KL not too weak"].startswith("ok")
    assert (experiment / "unbroken" / "autoencoder" / "samples" / "step_0000006.png").exists()


def flowers(count: int) -> torch.Tensor:
    pictures = np.stack([np.asarray(draw(truth(i), 16)) for i in range(count)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_the_export_is_the_ema_with_latents_of_mean_0_and_std_1(experiment, unbroken):
    """Over the training set, within 1 %, as stock diffusers encodes it."""
    stock = AutoencoderKL.from_pretrained(experiment / "unbroken" / "autoencoder" / "export")
    pixels = flowers(24)
    posterior = stock.encode(torch.cat([pixels, pixels.flip(-1)])).latent_dist
    variance = posterior.mean.var((0, 2, 3), correction=0) + posterior.var.mean((0, 2, 3))
    torch.testing.assert_close(posterior.mean.mean((0, 2, 3)), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(variance.sqrt(), torch.ones(4), atol=0.01, rtol=0)

    raw = build_autoencoder({"block_out_channels": [8, 8], "norm_num_groups": 4})
    raw.load_state_dict(load_file(last_checkpoint(experiment, "unbroken") / "ema.safetensors"))
    image = raw.decode(raw.encode(pixels).latent_dist.mean).sample
    torch.testing.assert_close(stock.decode(posterior.mean[:24]).sample, image, atol=1e-5, rtol=0)


def die_in_the_export() -> None:
    _at_call("autoencoder.codec", "KLCodec", "standardize", 1, _kill)


def test_an_export_is_of_the_last_checkpoint_and_is_made_once(experiment, unbroken):
    name, more = "longer", "autoencoder.train.steps=8"
    shutil.copytree(experiment / "unbroken", experiment / name)
    folder = experiment / name / "autoencoder"
    weights = folder / "export" / "diffusion_pytorch_model.safetensors"
    first = weights.read_bytes()
    assert train(experiment, name, "data.size=30") == 0  # other images do not move its latents
    assert weights.read_bytes() == first
    DAMAGES["flipped"](weights)
    assert train(experiment, name) == 0  # an export that is damaged is made again
    assert weights.read_bytes() == first
    assert train(experiment, name, more, before=die_in_the_export) == -signal.SIGKILL
    assert last_checkpoint(experiment, name).name == "step_0000008"
    assert weights.read_bytes() == first
    assert train(experiment, name, more) == 0
    assert weights.read_bytes() != first
    assert not list(folder.glob(".export*"))


def test_a_run_that_is_ended_early_is_judged_where_it_ended(experiment, unbroken):
    name = "ended"
    assert train(experiment, name, before=die_before_the_adversarys_step) == -signal.SIGKILL
    at = "autoencoder.train.steps=2"  # its last checkpoint; the only evaluation was of step 3
    assert train(experiment, name, at) == 0
    folder = experiment / name / "autoencoder"
    assert "step: 2\n" in (folder / "health.txt").read_text()
    assert read_metrics(folder / "metrics.jsonl")[-1]["step"] == 2
    assert (folder / "export").is_dir()


def test_a_decoder_fine_tuned_alone_keeps_the_latents(experiment):
    torch.manual_seed(0)
    first = build_autoencoder(
        {"block_out_channels": [8, 8], "norm_num_groups": 4, "scaling_factor": 0.2}
    )
    first.save_pretrained(experiment / "first")
    more = [f"autoencoder.init={experiment / 'first'}", "autoencoder.trainable=decoder"]
    assert train(experiment, "decoder", *more, "autoencoder.loss.adversarial=0") == 0
    tuned = AutoencoderKL.from_pretrained(experiment / "decoder" / "autoencoder" / "export")
    assert tuned.config.scaling_factor == 0.2
    for name, weight in first.state_dict().items():
        same = torch.equal(tuned.state_dict()[name], weight)
        assert same == name.startswith(("encoder", "quant_conv")), name


def test_noise_of_either_kind_reaches_the_training(experiment, unbroken):
    more = ["autoencoder.loss.input_noise=0.5", "autoencoder.loss.adversarial=0"]
    assert train(experiment, "denoising", *more) == 0
    assert train(experiment, "clean", more[1]) == 0
    assert train(experiment, "astray", "autoencoder.loss.latent_noise=0.5", more[1]) == 0
    denoising, clean, astray = (
        load_file(last_checkpoint(experiment, name) / "model.autoencoder.safetensors")
        for name in ("denoising", "clean", "astray")
    )
    for other in (denoising, astray):
        assert any(not torch.equal(other[k], clean[k]) for k in clean)


@pytest.mark.slow
def test_an_autoencoder_of_stable_diffusions_shape_goes_in_and_out(experiment):
    torch.manual_seed(0)
    shape = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    build_autoencoder(shape).save_pretrained(experiment / "sd")
    more = [f"autoencoder.init={experiment / 'sd'}", "data.resolution=32"]
    fewer = ["autoencoder.train.steps=2", "autoencoder.train.batch_size=2", "data.size=8"]
    assert train(experiment, "sd_tuned", *more, *fewer) == 0
    stock = AutoencoderKL.from_pretrained(experiment / "sd_tuned" / "autoencoder" / "export")
    raw = AutoencoderKL.from_pretrained(experiment / "sd")
    ema = load_file(last_checkpoint(experiment, "sd_tuned") / "ema.safetensors")
    raw.load_state_dict(ema)
    pictures = np.stack([np.asarray(draw(truth(i), 32)) for i in range(2)])
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        tuned = stock.decode(stock.encode(x).latent_dist.mean).sample
        expected = raw.decode(raw.encode(x).latent_dist.mean).sample
    torch.testing.assert_close(tuned, expected, atol=1e-4, rtol=0)
    fresh = AutoencoderKL.from_pretrained(experiment / "sd")
    assert not torch.equal(fresh.decoder.conv_out.weight, stock.decoder.conv_out.weight)
