"""Tiny experiments whose every command takes a second or two, and what must come out of each."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from autoencoder.model import build_autoencoder
from tests.faults import commands

YAML = """
name: tiny
data: {source: drawn, size: 24, resolution: 16, workers: 0, holdout: 0.35}
autoencoder:
  model: {block_out_channels: [8, 8], norm_num_groups: 4}
  loss: {kl: 1e-3, perceptual: 0.3, adversarial: 0.5, adversarial_start: 2}
  train: {steps: 4, batch_size: 4, warmup: 2, learning_rate: 1e-3, epsilon: 1e-6,
          checkpoint_every: 2, evaluate_every: 2, tracker: none}
conditioning: {model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}}
unet: {block_out_channels: [16, 16], layers_per_block: 1, norm_num_groups: 4}
train: {steps: 8, batch_size: 4, warmup: 2, ema_snapshots: 4, learning_rate: 1e-3, epsilon: 1e-6,
        checkpoint_every: 4, evaluate_every: 4, tracker: none}
sample: {prompts: [a red flower], num_inference_steps: 2, images_per_prompt: 1}
"""


class Command(NamedTuple):
    """One command of the chain: how it is called in a folder, and which files are its result."""

    target: str
    arguments: Callable[[Path], list[str]]
    result: tuple[str, ...]
    needs: str | None = None  # the command whose folder it goes on from

    def run(self, place: Path, before=None) -> commands.Ended:
        return commands.run(self.target, self.arguments(place), before, place)


def _training(*more: str) -> Callable[[Path], list[str]]:
    return lambda place: [
        *("--config", str(place / "tiny.yaml"), f"output={place}"),
        *(setting.format(place=place) for setting in more),
    ]


def _run_of(place: Path) -> str:
    return str(place / "tiny")


COMMANDS = {
    "stage 1": Command(
        "train_autoencoder:main",
        _training(),
        ("tiny/autoencoder/checkpoints/step_0000004/manifest.json", "tiny/autoencoder/export/*"),
    ),
    "stage 2": Command(
        "train_ldm:main",
        _training("autoencoder.path={place}/vae"),
        ("tiny/ldm/checkpoints/step_0000008/manifest.json", "tiny/pipeline/**/*", "tiny/ldm/ema/*"),
    ),
    "export": Command(
        "tests.faults.experiments:ldm",
        lambda place: ["export", _run_of(place), "--ema", "0.1", "--out", str(place / "out")],
        ("out/**/*",),
        "stage 2",
    ),
    "generate": Command(
        "tests.faults.experiments:ldm",
        lambda place: [
            *("generate", "a red flower", "a white flower", "--model", _run_of(place)),
            *("--seed", "0", "--out", str(place / "pictures")),
        ],
        ("pictures/*",),
        "stage 2",
    ),
    "inspect": Command(
        "tests.faults.experiments:ldm",
        lambda place: ["inspect", _run_of(place)],
        ("tiny/curves.png",),
        "stage 2",
    ),
}


def ldm() -> int:
    import sys

    from pipelines.commands.main import main

    return main(sys.argv[1:])


def prepared(place: Path) -> Path:
    """A folder with the config and an autoencoder, from which stage 1 or 2 begins."""
    place.mkdir(parents=True)
    torch.manual_seed(0)
    build_autoencoder({"block_out_channels": [8, 8, 8], "norm_num_groups": 4}).save_pretrained(
        place / "vae"
    )
    (place / "tiny.yaml").write_text(YAML)
    return place


class Experiments:
    """Every command's folder before and after it, made once; cases work on copies."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.after: dict[str, Path] = {}

    def before(self, name: str) -> Path:
        needs = COMMANDS[name].needs
        return self.unbroken(needs) if needs else self._prepared()

    def _prepared(self) -> Path:
        place = self.folder / "prepared"
        return place if place.exists() else prepared(place)

    def unbroken(self, name: str) -> Path:
        """The folder that the command leaves without a fault."""
        if name not in self.after:
            place = self.copy(name)
            ended = COMMANDS[name].run(place)
            assert ended.status == 0, ended.said
            assert commands.tree(place, *COMMANDS[name].result), "no result"
            self.after[name] = place
        return self.after[name]

    def copy(self, name: str) -> Path:
        """A fresh folder from which the command can begin."""
        self.count += 1
        place = self.folder / f"{self.count:04d}" / "here"
        shutil.copytree(self.before(name), place, symlinks=True)
        return place

    def good(self, name: str, place: Path) -> bool:
        """Whether `place` holds what the command leaves without a fault."""
        patterns = COMMANDS[name].result
        return commands.tree(place, *patterns) == commands.tree(self.unbroken(name), *patterns)
