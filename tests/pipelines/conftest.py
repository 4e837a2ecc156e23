"""Tiny pipelines: this project's own, and stock Stable Diffusion folders."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image

from autoencoder.codec import KLCodec
from ldm.conditions.conditioner import build_conditioner
from ldm.config import (
    ConditioningConfig,
    Config,
    DiffusionConfig,
    SampleConfig,
    TrainConfig,
    save_config,
)
from ldm.models.network import CAPTION
from ldm.models.unet import build_unet
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from pipelines.calls.defaults import StockDefaults
from pipelines.text_to_image import TextToImagePipeline

TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SD_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
DEFAULTS = StockDefaults(num_inference_steps=5, guidance_scale=3.0)


def tiny_parts(kind="joint", names=("daisy", "oxeye daisy", "rose"), **unet_options):
    """(vae, unet, conditioner) of 16 x 16 pixels and 8 x 8 latents, with fixed random weights."""
    torch.manual_seed(0)
    model = TEXT if kind == "joint" else {"hidden_size": 32}
    conditioner = build_conditioner(ConditioningConfig(kind, model=model), names)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=8,
        latent_channels=4,
        sample_size=16,
    )
    unet = build_unet(
        {"block_out_channels": (32, 64), "layers_per_block": 1, **unet_options},
        sample_size=(8, 8),  # as training gives it
        in_channels=4,
        out_channels=4,
        cross_attention_dim=conditioner.context_dim,
    )
    with torch.no_grad():  # random attention is too flat for a prompt to matter: sharpen it
        for name, parameter in unet.named_parameters():
            if "attn2" in name:
                parameter.mul_(2)
    return vae.eval(), unet.eval(), conditioner


def model(vae, unet, conditioner, spec):
    return Model(KLCodec(vae), {CAPTION: conditioner}, unet, spec)


def tiny_pipeline(kind="joint", **spec):
    parts = tiny_parts(kind, **spec.pop("unet", {}))
    spec = Spec.from_diffusion_config(
        DiffusionConfig(**{k: spec.pop(k) for k in ("schedule", "prediction") if k in spec}), **spec
    )
    return quiet(TextToImagePipeline(model(*parts, spec), DEFAULTS))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generator(seed):
    return torch.Generator().manual_seed(seed)


def stock_pipeline(scheduler, kind="class"):
    """A stock pipeline; class names make by far the smaller tokenizer, and so the faster tests."""
    vae, unet, conditioner = tiny_parts(kind)
    pipe = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        tokenizer=conditioner.tokenizer,
        text_encoder=conditioner.encoder,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return quiet(pipe)


def write_run(folder):
    """A run folder as training leaves it half-way: config, figures, a sample grid, an export."""
    config = Config(
        name="tiny",
        output=str(folder),
        train=TrainConfig(steps=40),
        sample=SampleConfig(prompts=("a red flower", "a white daisy")),
    )
    run = config.folder
    for stage, steps in (("autoencoder", 30), ("ldm", 20)):
        (run / stage / "samples").mkdir(parents=True)
        lines = []
        for step in range(10, steps + 1, 10):
            figures = {"loss": 1 / step, "learning_rate": 1e-4, "gradient_norm": 1.0 + step}
            lines.append(
                {"step": step, "images_per_second": 50.0, "peak_memory_gib": 1.0, **figures}
            )
        lines[-1]["verdict/no dead channels"] = "ok  no dead channels: 0 of 4"
        levels = {f"validation/level_{k:02d}": 0.1 * (k + 1) for k in range(10)}
        if stage == "ldm":
            lines += [{"step": s, "validation/loss": 5.0 / s, **levels} for s in (10, 20)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run / stage / "metrics.jsonl").write_text(text + '{"step": 30, "lo')  # cut by a kill
    for step in (10, 20):
        picture = Image.new("RGB", (8, 8), (step, 0, 0))
        picture.save(run / "ldm" / "samples" / f"step_{step:07d}.png")
    save_config(config, run / "config.yaml")
    tiny_pipeline().save_pretrained(run / "pipeline")
    return run


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()
