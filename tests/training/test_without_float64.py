"""Nothing that training, validation, sampling or evaluation sends to the device is float64."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ldm.conditions.condition import Captions
from ldm.config import DiffusionConfig, TrainConfig
from ldm.core.inference import evaluating
from ldm.core.share import ALONE
from ldm.diffusion.plane import clean
from ldm.evaluation.bits import bound_by_level, flow_bits
from ldm.schedulers.spec import Spec
from ldm.training.ema import EMA
from ldm.training.examples import Batch, Examples
from ldm.training.latent_diffusion import LatentDiffusion, bound
from ldm.training.tasks.denoising import objective
from ldm.training.tasks.times import Times
from ldm.training.tracking import Metrics
from ldm.training.validation import Validation
from tests.pipelines.conftest import model, tiny_parts, tiny_pipeline
from tests.without_float64 import DEVICE, NoFloat64, device_without_float64

X0, EPS = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
SMALL = {"block_out_channels": (16,), "norm_num_groups": 4}
U = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)


def test_the_device_refuses_float64_and_strangers_and_counts_right():
    with device_without_float64():
        x = torch.arange(4.0).to(DEVICE)
        assert (x * 2 + torch.ones((), dtype=torch.float64)).sum().item() == 16
        assert (x @ x).item() == 14
        x += torch.ones(4, device=DEVICE)
        assert x.cpu().tolist() == [1, 2, 3, 4]
        for wrong in (
            lambda: x.double(),
            lambda: U.to(DEVICE),
            lambda: torch.ones(2, dtype=torch.float64, device=DEVICE),
        ):
            with pytest.raises(NoFloat64):
                wrong()
        with pytest.raises(AssertionError, match="mixes"):
            x + torch.ones(4)


def step(parts, device, sampling, weighting, schedule):
    """The loss, and the gradient and average of a weight, of one step on a device."""
    vae, unet, conditioner = parts
    config = DiffusionConfig(
        schedule=schedule, time_sampling=sampling, weighting=weighting, time_args={}
    )
    spec = Spec.from_diffusion_config(config)
    times = Times(config, spec.schedule, 0, 4)
    state = {k: v.clone() for k, v in unet.state_dict().items()}
    fresh = type(unet).from_config(unet.config)
    fresh.load_state_dict(state)
    trained = LatentDiffusion(model(vae, fresh, conditioner, spec), TrainConfig()).to(device)
    conditioner.encoder.to(device)
    ema = EMA(trained, 0.9)
    ids = conditioner.tokens(["rose", "daisy", None, "rose"])
    batch = Batch(X0, EPS, U, {"caption": ids}).to(device)
    loss = objective(config, spec, times)(bound(trained, spec, batch.conditions), batch).mean()
    loss.backward()
    times.update(lambda table: table)
    ema.update(1)
    weight = next(trained.unet.parameters())
    return loss.detach().cpu(), weight.grad.cpu(), ema.average[0].cpu()


@pytest.mark.parametrize(
    ("sampling", "weighting", "schedule"),
    [
        ("uniform", "vlb", "scaled_linear"),
        ("importance", "min_snr", "flow"),
    ],
)
def test_a_training_step_needs_no_float64_and_is_that_of_the_cpu(sampling, weighting, schedule):
    options = (sampling, weighting, schedule)
    parts = tiny_parts("class", **SMALL)
    here = step(parts, "cpu", *options)
    with device_without_float64():
        there = step(parts, DEVICE, *options)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


class Latents:
    shape = (4, 8, 8)

    def __len__(self):
        return 4

    def captions(self, i):
        return ("rose",)

    def sample(self, indices, views, flips, noise):
        return X0[list(indices)]


def test_validation_needs_no_float64(tmp_path):
    def curve(device):
        parts = tiny_parts("class", **SMALL)
        conditioner = parts[2]
        spec = Spec.from_diffusion_config(DiffusionConfig())
        trained = LatentDiffusion(model(*parts, spec), TrainConfig()).to(device)
        conditioner.encoder.to(device)
        told = {"caption": Captions(conditioner.tokens, 0.0)}
        examples = Examples(Latents(), told, lambda step, slots: U, 0, False, 1)
        accelerator = SimpleNamespace(autocast=nullcontext, log=lambda *_, **__: None)
        run = SimpleNamespace(
            accelerator=accelerator,
            device=device,
            config=SimpleNamespace(seed=0),
            metrics=Metrics(accelerator, False, tmp_path / "metrics.jsonl"),
            share=ALONE,
            main=False,
        )
        return Validation(run, trained, {"train": examples})(1)["train"].losses

    here = curve(torch.device("cpu"))
    with device_without_float64():
        there = curve(DEVICE)
    torch.testing.assert_close(here, there, rtol=1e-4, atol=0)


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde"])
def test_sampling_needs_no_float64(sampler):
    def picture(device):
        pipe = tiny_pipeline("class", sampler=sampler, unet=SMALL)
        for network in (pipe.vae, pipe.unet, pipe.text_encoder):
            network.to(device)
        return pipe("rose", num_inference_steps=3, seed=1, guidance_scale=2.0).images[0]

    here = picture("cpu")
    with device_without_float64():
        there = picture(DEVICE)
    assert np.abs(np.asarray(here, int) - np.asarray(there, int)).max() <= 1


@pytest.mark.slow
def test_likelihoods_need_no_float64():
    x0 = X0[..., :4, :4]

    def figures(device):
        parts = tiny_parts("class", **SMALL)
        conditioner = parts[2]
        spec = Spec.from_diffusion_config(DiffusionConfig())
        trained = LatentDiffusion(model(*parts, spec), TrainConfig()).to(device)
        conditioner.encoder.to(device)
        ids = conditioner.tokens(["rose"] * 4).to(device)
        levels = [spec.schedule.level(t) for t in torch.tensor([1.0, 0.5, 0.1]).double()]

        def bounded(piece):
            return spec.denoiser(bound(trained, spec, {"caption": ids[piece]}))

        with evaluating(trained):
            elbo = bound_by_level(bounded, x0, [*levels, clean()], 0, ALONE, device)
            flow = flow_bits(bounded, spec.schedule, x0, 0, ALONE, device, steps=1)
        return elbo.prior, elbo.steps, elbo.reconstruction, flow

    here = figures("cpu")
    with device_without_float64():
        there = figures(DEVICE)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
