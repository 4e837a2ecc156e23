"""Stage 2 end to end, in processes of its own: killed, resumed, distributed, interrupted."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import train_ldm
from autoencoder.model import build_autoencoder
from ldm.core.errors import UserError, exits_with_a_sentence
from ldm.data.drawn import DrawnFlowers
from ldm.training.checkpoint import damage, resumable
from ldm.training.optim import GuardedStep
from ldm.training.post_hoc_ema import reconstruct
from ldm.training.tracking import read_metrics
from pipelines.averaged import average_applied
from tests.training_processes import run, run_distributed, start

YAML = """
data: {source: drawn, size: 24, resolution: 16, workers: 0}
conditioning: {model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}}
unet: {block_out_channels: [16, 16], layers_per_block: 1, norm_num_groups: 4}
# Some gradients are zero but for rounding (a key's bias, under softmax); with Adam's usual epsilon
# of 1e-8 they would move by full steps in the direction of the rounding.
train: {steps: 12, batch_size: 4, warmup: 2, ema_snapshots: 6, learning_rate: 1e-3, epsilon: 1e-6,
        checkpoint_every: 4, evaluate_every: 6, tracker: none}
sample: {prompts: [a red flower], num_inference_steps: 2, images_per_prompt: 1}
"""
TINY = {"block_out_channels": [8, 8, 8], "norm_num_groups": 4}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("experiment")
    torch.manual_seed(0)
    build_autoencoder(TINY).save_pretrained(folder / "vae")
    (folder / "tiny.yaml").write_text(YAML)
    return folder


def overrides(experiment: Path, name: str, *more: str) -> list[str]:
    return [f"output={experiment}", f"name={name}", f"autoencoder.path={experiment / 'vae'}", *more]


def last_checkpoint(experiment: Path, name: str) -> Path:
    return max((experiment / name / "ldm" / "checkpoints").glob("step_*"))


def manifest(experiment: Path, name: str) -> dict[str, str]:
    return json.loads((last_checkpoint(experiment, name) / "manifest.json").read_text())


def figures(experiment: Path, name: str) -> list[dict[str, Any]]:
    """What was recorded, but for how fast it went."""
    records = read_metrics(experiment / name / "ldm" / "metrics.jsonl")
    pace = ("images_per_second", "peak_memory_gib")
    return [{k: v for k, v in record.items() if k not in pace} for record in records]


@pytest.fixture(scope="module")
def unbroken(experiment) -> dict[str, str]:
    assert run("train_ldm", experiment / "tiny.yaml", overrides(experiment, "unbroken")) == 0
    assert last_checkpoint(experiment, "unbroken").name == "step_0000012"
    return manifest(experiment, "unbroken")


def signal_at_call(number: int, module: str, owner: str, function: str, call: int) -> None:
    """Send this process a signal at the n-th call of a function."""
    place = import_module(module)
    place = getattr(place, owner) if owner else place
    real, calls = getattr(place, function), 0

    def signalled(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    setattr(place, function, signalled)


def die_in_a_step() -> None:
    signal_at_call(signal.SIGKILL, "ldm.training.optim", "GuardedStep", "__call__", 7)


def rank_1_is_told_to_stop_at_step_ten() -> None:
    if os.environ["RANK"] == "1":
        signal_at_call(signal.SIGTERM, "ldm.training.optim", "GuardedStep", "__call__", 6)


def die_while_writing_a_checkpoint() -> None:
    signal_at_call(signal.SIGKILL, "ldm.core.sums", "", "sha256", 7)


def die_in_evaluation() -> None:
    signal_at_call(signal.SIGKILL, "ldm.training.validation", "Validation", "__call__", 1)


# death in a step is also where one_two_one begins
@pytest.mark.parametrize(
    "death",
    [
        pytest.param(die_in_a_step, marks=pytest.mark.slow),
        die_while_writing_a_checkpoint,
        die_in_evaluation,
    ],
)
def test_a_killed_run_ends_bitwise_where_an_unbroken_one_does(experiment, unbroken, death):
    name, yaml = death.__name__, experiment / "tiny.yaml"
    assert run("train_ldm", yaml, overrides(experiment, name), death) == -signal.SIGKILL
    assert last_checkpoint(experiment, name).name in ("step_0000004", "step_0000008")
    assert run("train_ldm", yaml, overrides(experiment, name)) == 0
    assert manifest(experiment, name) == unbroken
    steps = [r["step"] for r in read_metrics(experiment / name / "ldm" / "metrics.jsonl")]
    assert steps == sorted(steps) and len(set(steps)) < 12  # nothing is recorded twice
    assert figures(experiment, name) == figures(experiment, "unbroken")


def test_another_ema_can_be_made_after_training_and_is_the_true_one(experiment, unbroken):
    folder = experiment / "unbroken"
    made = reconstruct(folder / "ldm" / "ema", 0.1)
    kept = load_file(last_checkpoint(experiment, "unbroken") / "averages.safetensors")
    for name, value in made.items():
        torch.testing.assert_close(value, kept[f"0.100/{name}"], atol=1e-5, rtol=0)
    assert average_applied(folder, 0.05, folder / "shorter").joinpath("model_index.json").is_file()
    with pytest.raises(UserError, match=r"can be had: 0\.05, 0\.1"):  # of two snapshots
        average_applied(folder, 0.2, folder / "longer")


def test_one_two_one_processes_end_where_one_does(experiment, unbroken):
    yaml, name = experiment / "tiny.yaml", "split"
    assert run("train_ldm", yaml, overrides(experiment, name), die_in_a_step) == -signal.SIGKILL
    stop = rank_1_is_told_to_stop_at_step_ten
    statuses = run_distributed("train_ldm", yaml, overrides(experiment, name), 2, stop)
    assert statuses == [128 + signal.SIGTERM] * 2  # both leave after the same step
    assert last_checkpoint(experiment, name).name == "step_0000010"
    assert run("train_ldm", yaml, overrides(experiment, name)) == 0
    mine = load_file(last_checkpoint(experiment, name) / "model.ldm.safetensors")
    one = load_file(last_checkpoint(experiment, "unbroken") / "model.ldm.safetensors")
    for key, value in one.items():
        torch.testing.assert_close(mine[key], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_leaves_one_checkpoint_and_the_run_goes_on(experiment, unbroken, number):
    yaml, name = experiment / "tiny.yaml", f"signalled{number}"
    slow = overrides(experiment, name, "train.checkpoint_every=1000")
    process = start("train_ldm", yaml, slow)
    metrics = experiment / name / "ldm" / "loss_by_level.png"  # written at step 6
    while not metrics.exists() and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 128 + number
    assert 6 <= int(last_checkpoint(experiment, name).name[5:]) < 12
    assert run("train_ldm", yaml, slow) == 0
    assert manifest(experiment, name) == unbroken
    # its mean over the steps to the tenth too, of which the first were in another session
    assert figures(experiment, name) == figures(experiment, "unbroken")


def no_file_grows_from_step_six_on() -> None:
    """As on a full disk, of which the command speaks to a file that was there before."""
    real, calls = GuardedStep.__call__, []

    def step(*args):
        calls.append(1)
        if len(calls) == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        return real(*args)

    GuardedStep.__call__ = step
    train_ldm.train = exits_with_a_sentence(_resumably(train_ldm.train))
    os.dup2(os.open(os.environ["SAID"], os.O_WRONLY | os.O_CREAT), 2)


def _resumably(train):
    def command(config):
        with resumable(config.folder / "ldm" / "checkpoints"):
            return train(config)

    return command


def test_a_full_disk_ends_in_a_sentence_that_names_the_last_checkpoint(experiment):
    yaml, said = experiment / "tiny.yaml", experiment / "said"
    name = "full"
    full = start(
        "train_ldm",
        yaml,
        overrides(experiment, name),
        no_file_grows_from_step_six_on,
        SAID=str(said),
    )
    full.join()
    told = said.read_text().splitlines()
    (error,) = [line for line in told if line.startswith("error: ")]
    assert full.exitcode == 2 and "Traceback" not in said.read_text()
    assert "cannot be written: File too large" in error
    assert "it goes on from" in error and "step_0000004, which is whole" in error
    assert not list((experiment / name).rglob(".writing_*"))
    assert last_checkpoint(experiment, name).name == "step_0000004"


def test_images_that_join_do_not_move_the_latents_of_a_run(experiment, unbroken):
    """Nor does a finished run that is given other data export another autoencoder."""
    folder = experiment / "grown"
    shutil.copytree(experiment / "unbroken", folder)
    weights = folder / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors"
    before, vae = facts(experiment, "grown"), weights.read_bytes()
    assert len(before["statistics of the latents"]["mean"]) == 4
    assert run("train_ldm", experiment / "tiny.yaml", overrides(experiment, "grown", GROWN)) == 0
    assert weights.read_bytes() == vae
    more = overrides(experiment, "grown", GROWN, "train.steps=14")
    assert run("train_ldm", experiment / "tiny.yaml", more) == 0
    assert last_checkpoint(experiment, "grown").name == "step_0000014"
    assert facts(experiment, "grown") == before and weights.read_bytes() == vae
    fresh = overrides(experiment, "fresh", GROWN, "train.steps=1")
    assert run("train_ldm", experiment / "tiny.yaml", fresh) == 0
    assert facts(experiment, "fresh") != before  # they would have moved


GROWN = "data.size=30"


def facts(experiment: Path, name: str) -> dict[str, Any]:
    return json.loads((last_checkpoint(experiment, name) / "state.json").read_text())["facts"]


def test_a_run_on_another_autoencoder_is_refused_and_nothing_is_changed(experiment, unbroken):
    name, other = "moved", experiment / "other"
    shutil.copytree(experiment / "unbroken", experiment / name)
    torch.manual_seed(1)
    build_autoencoder(TINY | {"latent_channels": 6}).save_pretrained(other)
    kept = {p: p.read_bytes() for p in (experiment / name).rglob("*") if p.is_file()}
    says = experiment / "moved.txt"
    settings = overrides(experiment, name, f"autoencoder.path={other}", "train.steps=14")
    assert run("train_ldm", experiment / "tiny.yaml", settings, partial(hear, str(says))) == 1
    assert "were made with the autoencoder " in says.read_text()
    assert any(path.suffix == ".arrow" for path in kept)  # nor is anything encoded again
    assert all(path.read_bytes() == content for path, content in kept.items())


@pytest.mark.parametrize("other", ["prediction=epsilon", "schedule=cosine"])
def test_a_finished_run_is_not_exported_as_another_process(experiment, unbroken, other):
    name, says = other.replace("=", "_"), experiment / "process.txt"
    shutil.copytree(experiment / "unbroken", experiment / name)
    pipeline = experiment / name / "pipeline"
    kept = {p: p.read_bytes() for p in pipeline.rglob("*") if p.is_file()}
    settings = overrides(experiment, name, f"diffusion.{other}")
    assert run("train_ldm", experiment / "tiny.yaml", settings, partial(hear, str(says))) == 1
    assert f"were made with diffusion.{other.split('=')[0]} " in says.read_text()
    assert kept and all(path.read_bytes() == content for path, content in kept.items())


def note_what_is_seen() -> None:
    examples = import_module("ldm.training.examples").Examples
    real = examples.key

    def noted(self, name, slot):
        with open(os.environ["SEEN"], "a") as file:
            print(slot.epoch, slot.index, file=file)
        return real(self, name, slot)

    examples.key = noted


@pytest.mark.slow
def test_an_epoch_shows_what_is_repeated_more_than_once(experiment):
    repeats, seen = ["data.repeats={red: 3, flower: 1}", "train.steps=20"], experiment / "seen"
    process = start(
        "train_ldm",
        experiment / "tiny.yaml",
        overrides(experiment, "repeats", *repeats),
        note_what_is_seen,
        SEEN=str(seen),
    )
    process.join()
    assert process.exitcode == 0
    slots = [line.split() for line in seen.read_text().splitlines()]
    epoch = Counter(int(index) for number, index in slots if number == "0")
    drawn = DrawnFlowers(24, 16)
    red = {i for i in range(24) if any("red" in text.split() for text in drawn.captions(i))}
    assert 1 <= len(red) <= 12  # so that the first epoch is over
    assert epoch == {i: 3 if i in red else 1 for i in range(24)}


def test_too_few_quality_samples_are_refused_before_the_first_step(experiment):
    name, says = "few", experiment / "few.txt"
    settings = overrides(experiment, name, "sample.quality_samples=4")
    assert run("train_ldm", experiment / "tiny.yaml", settings, partial(hear, str(says))) == 1
    assert "sample.quality_samples=4 are too few" in says.read_text()
    assert not (experiment / name / "cache" / "train").exists()  # nothing was encoded


def hear(path: str) -> None:
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), 2)


def test_a_run_that_is_being_trained_is_not_trained_twice(experiment, unbroken):
    folder = experiment / "locked" / "ldm"
    folder.mkdir(parents=True)
    lock = f"f = open({str(folder / 'lock')!r}, 'w'); fcntl.lockf(f, fcntl.LOCK_EX)"
    script = f"import fcntl, time; {lock}; print('held', flush=True); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    settings, says = overrides(experiment, "locked"), experiment / "locked.txt"
    assert run("train_ldm", experiment / "tiny.yaml", settings, partial(hear, str(says))) == 1
    assert "another process is training in" in says.read_text()
    holder.kill()
    holder.wait()
    assert run("train_ldm", experiment / "tiny.yaml", settings) == 0


def test_every_gradient_not_finite_stops_with_the_last_checkpoint_whole(experiment, unbroken):
    name, yaml = "diverged", experiment / "tiny.yaml"
    assert run("train_ldm", yaml, overrides(experiment, name), die_in_a_step) == -signal.SIGKILL
    before = manifest(experiment, name)
    more = ["train.steps=40", "train.evaluate_every=100", "train.checkpoint_every=100"]
    settings = overrides(experiment, name, *more)
    assert run("train_ldm", yaml, settings, poison_the_loss) == 1
    assert manifest(experiment, name) == before
    assert damage(last_checkpoint(experiment, name)) is None


def poison_the_loss() -> None:
    from ldm.training.tasks.denoising import Denoising

    real = Denoising.__call__
    Denoising.__call__ = lambda self, *args: real(self, *args) * float("nan")
