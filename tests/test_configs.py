from pathlib import Path

import pytest
import torch

from ldm.config import load_config, save_config
from ldm.core.errors import UserError
from ldm.models.unet import build_unet, parameter_count
from ldm.schedulers.spec import Spec

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_short_and_describes_parts_that_can_be_built(path):
    assert len(path.read_text().splitlines()) <= 40
    config = load_config(path)
    assert config.name == path.stem
    assert load_config(path.stem) == config  # by name, from whatever folder
    Spec.from_diffusion_config(config.diffusion, config.sample.grid, config.sample.sampler)
    if "init" in config.unet:
        assert set(config.unet) <= {"init", "layers_per_block"}
        return
    with torch.device("meta"):
        unet = build_unet(
            config.unet, sample_size=16, in_channels=4, out_channels=4, cross_attention_dim=64
        )
    assert parameter_count(unet) > 1e6


def test_sd512_is_of_stable_diffusions_size():
    config = load_config(next(path for path in CONFIGS if path.stem == "sd512"))
    with torch.device("meta"):
        unet = build_unet(
            config.unet, sample_size=64, in_channels=4, out_channels=4, cross_attention_dim=768
        )
    assert parameter_count(unet) == 859_520_964  # as in runwayml/stable-diffusion-v1-5's unet


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.step=4", "the nearest is 'train.steps'"),
        ("autoencoder.los.kl=1", "the nearest is 'autoencoder.loss'"),
        ("train.steps=many", "train.steps"),
        ("steps", "not of the form key=value"),
        ("train.steps=0", r"train\.steps=0 must be at least 1"),
        ("train.batch_size=-8", r"train\.batch_size=-8 must be at least 1"),
        ("autoencoder.train.accumulation=0", r"^autoencoder\.train\.accumulation=0 must be at"),
        ("data.repeats={red rose: 0}", r"data\.repeats: red rose=0 must be at least 1"),
        ("data.repeats={red rose: often}", r"data\.repeats.*'often'"),
        ("data.workers=-1", r"data\.workers=-1 must be at least 0"),
        ("conditioning.dropout=5", r"conditioning\.dropout=5.* must be at most 1"),
        ("sample.images_per_prompt=0", "must be at least 1"),
    ],
)
def test_a_wrong_override_is_one_sentence_that_names_the_way_out(override, says):
    with pytest.raises(UserError, match=says) as caught:
        load_config(CONFIGS[0], [override])
    assert "\n" not in str(caught.value)


def test_a_saved_config_reads_back_as_it_was(tmp_path):
    config = load_config(CONFIGS[0], ["train.betas=[0.8,0.95]", "data.caption=text"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_no_precision_is_mixed_where_yaml_reads_a_bare_no(tmp_path):
    (tmp_path / "c.yaml").write_text("autoencoder: {train: {mixed_precision: no}}\n")
    config = load_config(tmp_path / "c.yaml", ["train.mixed_precision=no"])
    assert config.train.mixed_precision == config.autoencoder.train.mixed_precision == "no"
    save_config(config, tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml") == config


def test_a_number_in_exponent_notation_is_a_number():
    assert load_config(overrides=["train.learning_rate=1e-4"]).train.learning_rate == 1e-4
