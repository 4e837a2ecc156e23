"""Checkpoints that are whole or not there.

A checkpoint is written to a temporary folder, synced, closed by a manifest of SHA-256 sums, and
only then renamed to its name, so that a kill at any moment leaves either all of it or none of it.
Safetensors and JSON: nothing that is loaded can run code.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm.errors import UserError

MANIFEST = "manifest.json"
Tensors = Mapping[str, Mapping[str, Tensor]]


class Checkpoint(NamedTuple):
    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _name(step: int) -> str:
    return f"step_{step:07d}"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"), reverse=True)


def save_checkpoint(
    folder: Path, step: int, tensors: Tensors, state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write `folder`/step_NNNNNNN atomically, then remove all but the newest `keep` up to it.

    Those of later steps go too: a run that comes by here again passed over them as damaged.
    `tensors` maps a file's stem to its named tensors; `state` is anything that JSON can hold.
    """
    final = folder / _name(step)
    if final.exists():
        if damage(final) is None:  # the keyed randomness makes a second save of a step the same
            return final
        shutil.rmtree(final)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".writing_*"):
        shutil.rmtree(leftover)
    temporary = folder / f".writing_{_name(step)}"
    temporary.mkdir()
    for stem, named in tensors.items():
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in named.items()},
            temporary / f"{stem}.safetensors",
        )
    (temporary / "state.json").write_text(json.dumps(dict(state, step=step), indent=1))
    files = sorted(temporary.iterdir())
    for file in files:
        _sync(file)
    manifest = temporary / MANIFEST
    manifest.write_text(json.dumps({file.name: _sha256(file) for file in files}, indent=1))
    _sync(manifest)
    _sync(temporary)
    temporary.rename(final)
    _sync(folder)
    every = _newest_first(folder)
    first = every.index(final)
    for other in every[:first] + every[first + max(keep, 1) :]:
        shutil.rmtree(other)
    return final


def damage(path: Path) -> str | None:
    """What is wrong with the checkpoint at `path`, or None where it is whole."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return "its manifest is missing or unreadable"
    for name, digest in manifest.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _sha256(path / name) != digest:
            return f"{name} does not match its SHA-256"
    return None


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint in `folder`; None where there never was one.

    Warns of every damaged one that it passes over. Raises UserError where there are checkpoints but
    none is whole, because starting again at step 0 would quietly throw the run away.
    """
    paths = _newest_first(folder)
    for path in paths:
        if fault := damage(path):
            warnings.warn(f"passing over the checkpoint {path}: {fault}", stacklevel=2)
            continue
        state = json.loads((path / "state.json").read_text())
        tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
        return Checkpoint(state.pop("step"), tensors, state)
    if paths:
        raise UserError(
            f"no checkpoint in {folder} is whole; remove that folder to start again from step 0"
        )
    return None


def newest_state(folder: Path) -> dict[str, Any]:
    """The newest `state` that is whole, whatever became of the tensors; {} where there is none."""
    for path in _newest_first(folder):
        try:
            manifest, state = json.loads((path / MANIFEST).read_text()), path / "state.json"
            if manifest[state.name] == _sha256(state):
                return json.loads(state.read_text())
        except (OSError, ValueError, KeyError):
            continue
    return {}
