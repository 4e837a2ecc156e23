"""Every family of the mathematics, from its name in the config to a picture of the export."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

import train_ldm
from autoencoder.model import build_autoencoder
from ldm.config import DiffusionConfig, load_config
from ldm.core.errors import UserError
from ldm.diffusion.learned import Learned
from ldm.diffusion.loss import WEIGHTINGS
from ldm.diffusion.plane import PREDICTIONS
from ldm.diffusion.schedules import Discrete
from ldm.schedulers.spec import Spec
from ldm.training.tasks.times import QUANTILES, TIME_SAMPLERS
from ldm.training.tracking import read_metrics
from pipelines.text_to_image import TextToImagePipeline
from tests.test_train_ldm import YAML, die_in_a_step, last_checkpoint, manifest
from tests.training_processes import run, run_distributed

IMPORTANCE = (
    "diffusion.time_sampling=importance diffusion.time_args.bins=2 diffusion.time_args.history=2"
    " diffusion.low_discrepancy=sobol diffusion.weighting=min_snr sample.sampler=dpmpp_2m"
)
# name: (overrides, the diffusers scheduler it exports to or the reason why it does not)
FAMILIES = {
    "epsilon_vlb": ("diffusion.prediction=epsilon diffusion.weighting=vlb", "DDIMScheduler"),
    "sample_p2_euler": (
        "diffusion.prediction=sample diffusion.weighting=p2 sample.sampler=euler",
        "EulerDiscreteScheduler",
    ),
    "cosine_debiased": (
        "diffusion.schedule=cosine diffusion.weighting=debiased diffusion.low_discrepancy=none",
        "DDIMScheduler",
    ),
    "continuous_cosine_sigmoid": (
        "diffusion.schedule=continuous_cosine diffusion.weighting=sigmoid",
        "DDIMScheduler",
    ),
    "flow_logit_normal": (
        "diffusion.schedule=flow diffusion.prediction=flow diffusion.time_sampling=logit_normal",
        "DPMSolverMultistepScheduler",
    ),
    "edm_edm_lognormal": (
        "diffusion.schedule=edm diffusion.prediction=edm diffusion.prediction_args.sigma_data=1.0"
        " diffusion.weighting=edm diffusion.weighting_args.sigma_data=1.0"
        " diffusion.time_sampling=lognormal",
        "EDMEulerScheduler",
    ),
    "learned": ("diffusion.schedule=learned diffusion.weighting=vlb", "DDIMScheduler"),
    "learned_variance": (
        "diffusion.learned_variance=true sample.sampler=ddpm",
        "DDPMScheduler",
    ),
    "importance": (IMPORTANCE, "DPMSolverMultistepScheduler"),
    "muon": (
        "train.optimizer=muon unet.block_out_channels=[32,32] conditioning.model.hidden_size=32",
        "DDIMScheduler",
    ),
    "sub_vp": ("diffusion.schedule=sub_vp", "tables hold variance-preserving schedules"),
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    """A folder whose runs share the tiny autoencoder."""
    folder = tmp_path_factory.mktemp("families")
    torch.manual_seed(0)
    tiny = {"block_out_channels": [8, 8, 8], "norm_num_groups": 4}
    build_autoencoder(tiny).save_pretrained(folder / "vae")
    (folder / "tiny.yaml").write_text(YAML)
    (folder / "mute.yaml").write_text(
        re.sub("conditioning: .*", "conditioning: {kind: none}", YAML)
    )
    return folder


def overrides(experiment: Path, name: str, words: str) -> list[str]:
    places = [f"output={experiment}", f"name={name}", f"autoencoder.path={experiment / 'vae'}"]
    length = ["train.steps=8", "train.checkpoint_every=4", "train.evaluate_every=100"]
    return [*places, *length, *words.split()]


def trained(experiment: Path, name: str, words: str, before=None, yaml="tiny.yaml") -> int:
    return run("train_ldm", experiment / yaml, overrides(experiment, name, words), before)


def family(experiment: Path, name: str) -> Path:
    """The folder of a family's run, trained if it was not yet; its words are in a file."""
    if not (folder := experiment / name).exists():
        assert trained(experiment, name, FAMILIES[name][0], partial(speak_to, f"{folder}.txt")) == 0
    return folder


def speak_to(path: str, stream: int = 1) -> None:
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)


# whose parts others have: a prediction, a weighting, a schedule that are proven where they stand
ALIKE = {"epsilon_vlb", "sample_p2_euler", "cosine_debiased", "continuous_cosine_sigmoid", "sub_vp"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ALIKE)) for n in FAMILIES]
)
def test_a_family_trains_and_its_export_samples(experiment, name):
    folder, exported = family(experiment, name), FAMILIES[name][1]
    figures = read_metrics(folder / "ldm" / "metrics.jsonl")
    for key in ("loss", "gradient_norm", "train/loss"):
        found = [r[key] for r in figures if key in r]
        assert found and all(0 < value < 1e4 for value in found), key
    assert last_checkpoint(experiment, name).name == "step_0000008"

    pipe = TextToImagePipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red flower", seed=0, output_type="pt").images
    assert image.shape == (1, 3, 16, 16) and image.isfinite().all() and image.std() > 0
    if exported.endswith("Scheduler"):
        config = json.loads((folder / "pipeline/scheduler/scheduler_config.json").read_text())
        assert config["_class_name"] == exported
        assert config.get("sigma_data", 1.0) == 1.0  # as it was trained, not diffusers' 0.5


def test_the_families_are_all_that_the_config_can_name():
    """Of what this file trains; schedules and samplers are combined in test_scheduler_config."""
    words = " ".join(words for words, _ in FAMILIES.values())
    default = DiffusionConfig()
    for key, names in {
        "prediction": PREDICTIONS,
        "weighting": WEIGHTINGS,
        "time_sampling": TIME_SAMPLERS,
        "low_discrepancy": QUANTILES,
    }.items():
        for name in names:
            assert name == getattr(default, key) or f"diffusion.{key}={name}" in words


def test_what_diffusers_cannot_say_is_told_before_the_first_step_and_samples_here(experiment):
    """In stock diffusers it stops, rather than sample something else."""
    folder, reason = family(experiment, "sub_vp"), FAMILIES["sub_vp"][1]
    before, after = (folder.parent / "sub_vp.txt").read_text().split("the pipeline is in")
    assert reason in before and reason in after
    config = load_config(folder / "config.yaml")
    spec = Spec.from_diffusion_config(config.diffusion, config.sample.grid, config.sample.sampler)
    assert TextToImagePipeline.from_pretrained(folder).spec == spec
    with pytest.raises((AttributeError, TypeError, ValueError)):
        stock = DiffusionPipeline.from_pretrained(folder / "pipeline")
        stock("a red flower", num_inference_steps=2)


def test_a_learned_schedule_trains_and_leaves_a_table_with_its_ends(experiment):
    """All of its parameters move, in float64; the labels do not, and sampling needs no curve."""
    folder, start = family(experiment, "learned"), Learned()
    weights = load_file(last_checkpoint(experiment, "learned") / "model.ldm.safetensors")
    curve = {k.removeprefix("schedule."): v for k, v in weights.items() if "schedule." in k}
    assert curve.keys() == start.state_dict().keys()
    for key, value in start.state_dict().items():
        assert curve[key].dtype == torch.float64 and not torch.equal(curve[key], value)
    table = TextToImagePipeline.from_pretrained(folder).spec.schedule
    torch.testing.assert_close(Discrete.of(start.betas()).alphas_cumprod, table.alphas_cumprod)


@pytest.mark.parametrize(
    "name", ["importance", *(pytest.param(n, marks=pytest.mark.slow) for n in ("learned", "muon"))]
)
def test_what_a_family_remembers_survives_a_kill(experiment, name):
    """Bit for bit: the memory of past losses, the curve, and their optimizer."""
    family(experiment, name)
    words, killed = FAMILIES[name][0], f"{name}_killed"
    assert trained(experiment, killed, words, die_in_a_step) == -signal.SIGKILL
    assert last_checkpoint(experiment, killed).name == "step_0000004"
    assert trained(experiment, killed, words) == 0
    assert manifest(experiment, killed) == manifest(experiment, name)


def test_muon_has_the_kernels_and_the_text_encoder(experiment):
    folder = family(experiment, "muon")
    state = load_file(last_checkpoint(experiment, folder.name) / "optimizer.ldm.safetensors")
    momenta = [v for k, v in state.items() if k.endswith(".momentum")]
    assert sum(v.ndim == 4 for v in momenta) > 10 and sum(v.ndim == 2 for v in momenta) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["importance", "learned"])
def test_two_processes_that_accumulate_learn_what_one_does(experiment, name):
    """One curve and one history, up to the rounding of sums that are taken in another order."""
    family(experiment, name)
    words = f"{FAMILIES[name][0]} train.accumulation=2"
    settings = overrides(experiment, f"{name}_two", words)
    assert run_distributed("train_ldm", experiment / "tiny.yaml", settings, 2) == [0, 0]
    files = sorted(last_checkpoint(experiment, name).glob("model.*.safetensors"))
    assert len(files) == (2 if name == "importance" else 1)
    for file in files:
        one, two = (
            load_file(file),
            load_file(last_checkpoint(experiment, f"{name}_two") / file.name),
        )
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, atol=1e-5, rtol=1e-5)
        if file.name == "model.times.safetensors":
            assert one["losses"].isfinite().all() and len(one["losses"].unique()) == 4


def test_another_optimizer_cannot_take_up_a_run(experiment):
    shutil.copytree(family(experiment, "muon"), experiment / "switched")
    says = experiment / "switched.txt"
    words = f"{FAMILIES['muon'][0]} train.optimizer=adamw train.steps=9"
    assert trained(experiment, "switched", words, partial(speak_to, str(says), 2)) == 1
    assert "were made with train.optimizer muon, and this is adamw" in says.read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        (
            "diffusion.prediction=epsilon diffusion.schedule_args.zero_snr=true",
            "predicts ε says nothing of x0",
        ),
        ("diffusion.schedule=learned", r"set diffusion\.weighting=vlb"),
        (
            "diffusion.schedule=learned diffusion.weighting=vlb diffusion.time_sampling=lognormal",
            r"set diffusion\.time_sampling=uniform",
        ),
        ("diffusion.low_discrepancy=halton", "not one of none, stratified, sobol"),
        ("diffusion.time_sampling=loguniform", "not one of uniform, lognormal"),
        ("diffusion.time_args.bins=3", "diffusion.time_args: .*bins"),
        ("diffusion.weighting=snr", "not one of simple, vlb"),
        ("diffusion.weighting=p2 diffusion.weighting_args.g=3", "weighting_args: .*'g"),
        ("diffusion.weighting_args.gamma=3", "weighting simple takes none"),
        ("diffusion.prediction_args.sigma_data=1", "prediction v has no prediction_args"),
        ("diffusion.prediction=edm diffusion.prediction_args.sigma=1", "prediction edm: .*sigma"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_read_or_written(
    experiment, monkeypatch, words, message
):
    def reached(*args):
        raise AssertionError("a run was begun")

    monkeypatch.setattr(train_ldm, "Run", reached)
    config = load_config(experiment / "tiny.yaml", overrides(experiment, "refused", words))
    with pytest.raises(UserError, match=message):
        train_ldm.train(replace(config, data=replace(config.data, source="no/such-data")))
    assert not (experiment / "refused").exists()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """More than two hundred pictures, one of which ends too early."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(220):
        noise = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{i:03d}.png")
    torn = folder / "007.png"
    torn.write_bytes(torn.read_bytes()[:300])
    return folder


def of_photos(photos: Path, words: str) -> str:
    return f"data.source={photos} data.size=null sample.prompts=[] {words}"


@pytest.mark.parametrize(
    "words, message",
    [
        ("data.holdout=0", "no image is held out"),
        ("train.accumulation=3", "a batch of 4 does not divide"),
        (
            "sample.guidance_interval=[4,0]",
            "guidance_interval: the interval [4.0, 0.0] is not two",
        ),
    ],
)
def test_what_cannot_work_with_the_data_is_refused_before_it_is_encoded(
    experiment, photos, tmp_path, words, message
):
    ears = partial(speak_to, f"{tmp_path}/words", 2)
    assert trained(experiment, "early", of_photos(photos, words), ears, "mute.yaml") == 1
    assert f"UserError: {message}" in (tmp_path / "words").read_text()
    assert not list((experiment / "early").rglob("*.arrow"))


def test_a_prompt_that_the_model_cannot_take_is_refused_before_the_first_step(
    experiment, photos, tmp_path
):
    words = of_photos(photos, "data.holdout=0.5 sample.prompts=[azalea]")
    ears = partial(speak_to, f"{tmp_path}/words", 2)
    assert trained(experiment, "prompt", words, ears, "mute.yaml") == 1
    assert (
        "UserError: sample.prompts: this model is unconditional" in (tmp_path / "words").read_text()
    )
    assert not (experiment / "prompt" / "ldm" / "checkpoints").exists()


def test_a_bad_image_stays_named_when_its_set_is_encoded(experiment, photos):
    words = of_photos(photos, "data.holdout=0.5 train.steps=1 train.checkpoint_every=0")
    assert trained(experiment, "torn", words, yaml="mute.yaml") == 0
    images = experiment / "torn" / "cache" / "images"
    named = [(split / "quarantine.jsonl").read_text() for split in images.iterdir()]
    assert sum(text.count("007.png") for text in named) == 1
    assert all((split / "checked.json").exists() for split in images.iterdir())
