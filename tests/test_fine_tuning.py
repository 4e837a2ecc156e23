"""A published pipeline is where training can start: its parts are found and nothing is lost."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from autoencoder.codec import KLCodec
from autoencoder.model import build_autoencoder
from ldm.conditions.conditioner import build_conditioner
from ldm.config import ConditioningConfig, DiffusionConfig, SampleConfig, load_config
from ldm.core.errors import UserError
from ldm.models.network import CAPTION
from ldm.models.unet import build_unet
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from pipelines.containers.writer import save
from tests.training_processes import run
from train_ldm import train

TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
YAML = """
data: {{source: drawn, size: 24, resolution: 32, workers: 0}}
autoencoder: {{path: {0}, standardize: false}}
conditioning: {{kind: clip, path: {0}}}
unet: {{init: {0}}}
diffusion: {{prediction: epsilon}}
train: {{steps: 1, batch_size: 4, warmup: 0, learning_rate: {1}, weight_decay: 0, tracker: none}}
sample: {{prompts: [a red flower], num_inference_steps: 3, images_per_prompt: 1}}
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny pipeline of Stable Diffusion's kind, as others publish them."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    tiny = {"block_out_channels": [8, 8, 8], "norm_num_groups": 4, "scaling_factor": 0.18215}
    conditioner = build_conditioner(ConditioningConfig("joint", model=TEXT))
    unet = build_unet(
        {"block_out_channels": [32, 32], "layers_per_block": 1},
        sample_size=16,
        in_channels=4,
        out_channels=4,
        cross_attention_dim=32,
    )
    spec = Spec.from_diffusion_config(DiffusionConfig(prediction="epsilon"), "trailing", "ddim")
    model = Model(KLCodec(build_autoencoder(tiny)), {CAPTION: conditioner}, unet, spec)
    save(model, SampleConfig(num_inference_steps=3), folder)
    return folder


def images(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    call = dict(num_inference_steps=3, guidance_scale=3.0, height=32, width=32, output_type="np")
    return pipe("a red flower", generator=torch.manual_seed(0), **call).images


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("conditioning.kind=joint conditioning.path=null", "unet.init needs the text encoder"),
        (
            "conditioning.kind=class sample.prompts=[red]",
            r"unet.init needs the text encoder .* kind=class starts anew",
        ),
        ("conditioning.kind=joint", "is not read by kind=joint"),
        ("autoencoder.standardize=true", "set it to false"),
    ],
)
def test_what_would_blind_a_trained_unet_is_refused(published, tmp_path, words, sentence):
    yaml = tmp_path / "tune.yaml"
    yaml.write_text(YAML.format(published, 0.0))
    config = load_config(yaml, [f"output={tmp_path}", *words.split()])
    with pytest.raises(UserError, match=sentence):
        train(config)


def test_fine_tuning_goes_out_from_what_was_published(published, tmp_path):
    """What learned nothing paints the same picture, in stock diffusers; what learned another."""
    before, after = images(published), {}
    for name, rate, more in (
        ("idle", 0.0, []),
        ("grown", 0.0, ["unet.layers_per_block=[2,1]"]),
        ("tuned", 1e-2, []),
    ):
        yaml = tmp_path / "tune.yaml"
        yaml.write_text(YAML.format(published, rate))
        assert run("train_ldm", yaml, [f"output={tmp_path}", f"name={name}", *more]) == 0
        after[name] = images(tmp_path / name / "pipeline")
    for name in ("idle", "grown"):
        np.testing.assert_allclose(after[name], before, rtol=0, atol=1e-6)
    assert np.abs(after["tuned"] - before).mean() > 1e-3
