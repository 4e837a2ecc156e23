"""Settings that cannot be, by the hundred: every command ends in a sentence that names the key."""

from dataclasses import fields, is_dataclass

import pytest

from ldm.config import Config
from tests.faults.experiments import Command, Experiments, _training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
NUMBERS = ("nan", "inf", "-inf", "-1e30", "1e30", "abc", "[1, 2]", "{a: 1}", "1e400", "0x")
# what only shows when a model, a schedule or a grid is made of it
DEEP = (
    "autoencoder.path=nowhere/at/all",
    "unet.block_out_channels=[0]",
    "unet.block_out_channels=[17, 33]",
    "unet.block_out_channels=wide",
    "unet.norm_num_groups=0",
    "unet.norm_num_groups=7",
    "unet.layers_per_block=-1",
    "unet.attention_head_dim=0",
    "unet.no_such_argument=1",
    "unet.act_fn=nothing",
    "unet.down_block_types=[NoBlock]",
    "conditioning.model.hidden_size=0",
    "conditioning.model.hidden_size=15",
    "conditioning.model.num_attention_heads=0",
    "conditioning.model.num_hidden_layers=-1",
    "conditioning.model.no_such_argument=1",
    "conditioning.kind=clip",
    "diffusion.schedule=no_such",
    "diffusion.schedule_args.beta_start=nan",
    "diffusion.schedule_args.beta_end=2",
    "diffusion.schedule_args.beta_start=-1",
    "diffusion.schedule_args.steps=0",
    "diffusion.schedule_args.steps=1000000000",
    "diffusion.schedule_args.no_such=1",
    "diffusion.prediction=no_such",
    "diffusion.prediction_args.sigma_data=0",
    "diffusion.time_sampling=no_such",
    "diffusion.time_args.std=nan",
    "diffusion.time_args.std=-1",
    "diffusion.weighting=no_such",
    "diffusion.weighting_args.gamma=nan",
    "sample.sampler=no_such",
    "sample.sampler_args.eta=nan",
    "sample.sampler_args.no_such=1",
    "sample.grid=no_such",
    "sample.num_inference_steps=0",
    "sample.num_inference_steps=100000",
    "sample.guidance_scale=nan",
    "sample.guidance_interval=[3, 1]",
    "sample.guidance_interval=[nan, 1]",
    "sample.quality_samples=1",
    "data.source=nowhere/at/all",
    "data.validation=nowhere/at/all",
    "data.resolution=17",
    "data.resolution=1",
    "data.holdout=1",
    "train.batch_size=3 train.accumulation=2",
    "train.tracker=no_such",
    "train.mixed_precision=fp16",
    "train.optimizer=no_such",
    "name=../away",
    "name=/away",
    "name=",
    "output=tiny.yaml/under/a/file",
)


def numbers(tree: type, prefix: str = ""):
    """Every key of a number."""
    for field in fields(tree):
        value = getattr(tree(), field.name)
        if is_dataclass(value):
            yield from numbers(type(value), f"{prefix}{field.name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + field.name


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    return Experiments(tmp_path_factory.mktemp("settings"))


def command(*settings: str) -> Command:
    given = _training("autoencoder.path={place}/vae")
    return Command("train_ldm:main", lambda place: [*given(place), *settings], ())


@pytest.mark.parametrize("setting", DEEP)
def test_what_cannot_be_is_refused_before_a_step_is_trained(experiments, note, setting):
    place = experiments.copy("stage 2")
    split = setting.split(" ") if setting.startswith("train.batch") else [setting]
    ended = command(*(s.replace("tiny.yaml", str(place / "tiny.yaml")) for s in split)).run(place)
    note("a setting that cannot be", ended.outcome(False))
    assert ended.outcome(False) == "a sentence", ended
    assert not list(place.glob("**/checkpoints/*"))


@pytest.mark.parametrize("key", list(numbers(Config)))
def test_a_number_that_is_none_or_out_of_range_is_refused_by_its_key(note, capsys, key):
    from ldm.config import load_config
    from ldm.core.errors import exits_with_a_sentence

    for value in NUMBERS:
        status = exits_with_a_sentence(lambda v=value: load_config(None, [f"{key}={v}"]) and 0)()
        said = capsys.readouterr().err
        note("a number that cannot be", "a sentence" if status == 2 else "silent error")
        assert status == 2 and key in said, f"{key}={value}: {said}"
