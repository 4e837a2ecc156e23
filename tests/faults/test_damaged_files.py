"""Damage to every file of a run: the same command ends as without it, or in a sentence."""

import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from ldm.conditions.tokenizers import clip_bpe_tokenizer
from ldm.data.drawn import DrawnFlowers
from tests.damage import DAMAGES
from tests.faults import commands
from tests.faults.experiments import Command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

YAML = """
name: tiny
data: {size: 20, resolution: 16, workers: 0, holdout: 0.3}
autoencoder:
  model: {block_out_channels: [8, 8], norm_num_groups: 4}
  loss: {kl: 1e-3, adversarial: 0.5, adversarial_start: 2}
  train: {steps: 6, batch_size: 4, warmup: 2, learning_rate: 1e-3, epsilon: 1e-6,
          checkpoint_every: 2, evaluate_every: 2, tracker: none}
conditioning: {kind: clip}
unet: {block_out_channels: [16, 16], layers_per_block: 1, norm_num_groups: 4}
train: {steps: 8, batch_size: 4, warmup: 2, ema_snapshots: 4, learning_rate: 1e-3, epsilon: 1e-6,
        checkpoint_every: 3, evaluate_every: 4, tracker: none}
sample: {prompts: [a red flower], num_inference_steps: 2, images_per_prompt: 1}
"""


ENOUGH = ("as without it", "a sentence", "a warning")


def _arguments(place: Path) -> list[str]:
    given = {"output": place, "data.source": place / "photos", "conditioning.path": place / "clip"}
    return ["--config", str(place / "tiny.yaml"), *(f"{k}={v}" for k, v in given.items())]


def _on_the_run(*words: str):
    return lambda place: [words[0], *words[1:], str(place / "tiny")]


STAGES = {
    "stage 1": Command(
        "train_autoencoder:main",
        _arguments,
        ("tiny/autoencoder/checkpoints/step_0000006/manifest.json", "tiny/autoencoder/export/*"),
    ),
    "stage 2": Command(
        "train_ldm:main",
        _arguments,
        ("tiny/ldm/checkpoints/step_0000008/manifest.json", "tiny/pipeline/**/*"),
        "stage 1",
    ),
}
READERS = {
    "inspect": Command("tests.faults.experiments:ldm", _on_the_run("inspect"), ()),
    "report": Command("tests.faults.experiments:ldm", _on_the_run("report"), ()),
    "generate": Command(
        "tests.faults.experiments:ldm",
        lambda place: [
            *("generate", "a red flower", "--model", str(place / "tiny"), "--seed", "0"),
            *("--out", str(place / "flower.png")),
        ],
        ("flower.png",),
    ),
    "export": Command(
        "tests.faults.experiments:ldm",
        lambda place: [
            *("export", str(place / "tiny"), "--ema", "0.1", "--out", str(place / "out")),
        ],
        ("out/**/*",),
    ),
}


def prepared(place: Path) -> Path:
    """Photos with captions, a frozen text encoder and a config: all that both stages need."""
    flowers = DrawnFlowers(20, 16)
    (place / "photos").mkdir(parents=True)
    for i in range(len(flowers)):
        flowers.image(i).save(place / "photos" / f"{i:02d}.png")
        (place / "photos" / f"{i:02d}.txt").write_text(flowers.captions(i)[0])
    torch.manual_seed(0)
    tokenizer = clip_bpe_tokenizer(16)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = CLIPTextConfig(
        **small, num_hidden_layers=1, max_position_embeddings=16, vocab_size=len(tokenizer)
    )
    CLIPTextModel(config).save_pretrained(place / "clip")
    tokenizer.save_pretrained(place / "clip")
    (place / "tiny.yaml").write_text(YAML)
    return place


def stop_after(step: int) -> None:
    """Ask this process to stop, as Ctrl-C does, in its step `step`."""
    from ldm.training.optim import GuardedStep

    real, calls = GuardedStep.__call__, 0

    def counted(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *arguments)

    GuardedStep.__call__ = counted


class Chain:
    """Both stages of one run, half trained and whole, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        begun = prepared(folder / "begun")
        self.half = {"stage 1": self._stopped("stage 1", begun, 10)}  # two optimizers: step 5
        self.whole = {"stage 1": self._finished("stage 1", self.half["stage 1"])}
        self.half["stage 2"] = self._stopped("stage 2", self.whole["stage 1"], 5)
        self.whole["stage 2"] = self._finished("stage 2", self.half["stage 2"])

    def copy(self, place: Path) -> Path:
        """Always under the same path, as some files hold it."""
        here = self.folder / "here"
        shutil.rmtree(here, ignore_errors=True)
        return Path(shutil.copytree(place, here, symlinks=True))

    def keep(self, name: str) -> Path:
        return Path(shutil.copytree(self.folder / "here", self.folder / name, symlinks=True))

    def _stopped(self, stage: str, before: Path, calls: int) -> Path:
        ended = STAGES[stage].run(self.copy(before), partial(stop_after, calls))
        assert ended.status == 128 + signal.SIGTERM, ended.said
        return self.keep(f"{stage} half")

    def _finished(self, stage: str, before: Path) -> Path:
        ended = STAGES[stage].run(self.copy(before))
        assert ended.status == 0, ended.said
        return self.keep(f"{stage} whole")


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return Chain(tmp_path_factory.mktemp("chain"))


def files_of(place: Path) -> list[str]:
    """Every file of the run in `place`, that of Python's own or of temporary names apart."""
    run = place / "tiny"
    return sorted(str(p.relative_to(place)) for p in run.rglob("*") if p.is_file())


def kind(name: str) -> str:
    """What a file is, for the table: its place in a run without the numbers of steps."""
    parts = [part for part in Path(name).parts[1:] if not part.startswith("step_")]
    return "/".join(parts[:2]) if parts else name


def meet(chain: Chain, command: Command, before: Path, wanted: Path, name: str, damage: str):
    """What becomes of a command whose run has a damaged file: (outcome, what was said)."""
    place = chain.copy(before)
    if damage != "deleted" and not (place / name).stat().st_size:
        return None  # an empty file cannot be damaged further
    DAMAGES[damage](place / name)
    ended = command.run(place)
    patterns = command.result
    good = commands.tree(place, *patterns) == commands.tree(wanted, *patterns)
    changed = name.partition("/pipeline/")[2] if name.endswith(".json") else ""
    return ended.outcome(good, changed), ended.said


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_with_any_file_damaged_ends_as_without_it_or_in_a_sentence(
    chain, note, stage, damage
):
    bad = []
    for name in files_of(chain.half[stage]):
        met = meet(chain, STAGES[stage], chain.half[stage], chain.whole[stage], name, damage)
        if met is None:
            continue
        outcome, said = met
        note(f"{damage}, then {stage}", outcome)
        print(f"{stage} | {name} | {damage} | {outcome}")
        if outcome not in ENOUGH:
            bad.append(f"{name}: {outcome}\n{said}")
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", READERS)
def test_a_report_of_a_run_with_any_file_damaged_is_made_or_refused(chain, note, reader, damage):
    bad, command, whole = [], READERS[reader], chain.whole["stage 2"]
    place = chain.copy(whole)
    assert command.run(place).status == 0
    wanted = chain.keep(f"{reader} {damage}")
    for name in files_of(whole):
        if name.endswith((".arrow", "optimizer.ldm.safetensors")) and reader != "report":
            continue
        met = meet(chain, command, whole, wanted, name, damage)
        if met is None:
            continue
        outcome, said = met
        note(f"{damage}, then {reader}", outcome)
        print(f"{reader} | {name} | {damage} | {outcome}")
        if outcome not in ENOUGH:
            bad.append(f"{name}: {outcome}\n{said}")
    shutil.rmtree(wanted)
    assert not bad, "\n".join(bad)
