"""Checkpoints that are whole or not there.

A checkpoint is written to a temporary folder, closed by a manifest of SHA-256 sums, synced, and
only then renamed to its name, so that a kill at any moment leaves either all of it or none of it.
Safetensors and JSON: nothing that is loaded can run code.
"""

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm.core import sums
from ldm.core.errors import NotWritten, UserError, refusal, writing
from ldm.core.files import write_json, write_text, written_folder
from ldm.core.sums import MANIFEST

STATE, SUFFIX = "state.json", ".safetensors"
Tensors = Mapping[str, Mapping[str, Tensor]]
LOST = (
    "another process of this run is gone, and has said why if it could; run the same command again"
)
# gloo's words, the store's and NCCL's
_PEER_ENDED = re.compile(
    "Connection (closed|reset) by peer|Broken pipe|Connection was likely closed|"
    "remote process exited"
)


class Checkpoint(NamedTuple):
    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def _name(step: int) -> str:
    return f"step_{step:07d}"


def _newest_first(folder: Path) -> list[Path]:
    """What has exactly the name of a checkpoint, by its step; all else there is the user's own."""
    if not folder.is_dir():
        return []
    steps = {p: int(p.name[5:]) for p in folder.iterdir() if re.fullmatch(r"step_\d{7,}", p.name)}
    ours = [path for path, step in steps.items() if path.name == _name(step)]
    return sorted(ours, key=lambda path: steps[path], reverse=True)


def _state(path: Path) -> dict[str, Any] | None:
    """The state that the checkpoint at `path` holds, if it can be read."""
    try:
        state = json.loads((path / STATE).read_bytes())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) and isinstance(state.get("step"), int) else None


def _foreign(path: Path) -> bool:
    """Whether somebody else put here what has a checkpoint's name: a link, a file, a renamed copy.

    It is never removed.
    """
    if path.is_symlink() or not path.is_dir():
        return True
    return (state := _state(path)) is not None and _name(state["step"]) != path.name


def _make_way(path: Path) -> None:
    """Free a name for the checkpoint that is about to have it."""
    if _foreign(path):
        free = (path.with_name(f"{path.name}.found_{n}") for n in count(1))
        path.rename(next(place for place in free if not place.exists()))
    else:
        shutil.rmtree(path)


def save_checkpoint(
    folder: Path, step: int, tensors: Tensors, state: Mapping[str, Any], keep: int = 2
) -> Path:
    """Write `folder`/step_NNNNNNN atomically, then remove all but the newest `keep` up to it.

    Those of later steps go too: a run that comes by here again passed over them as damaged.
    `tensors` maps a file's stem to its named tensors; `state` is anything that JSON can hold.
    """
    final = folder / _name(step)
    if final.exists() or final.is_symlink():
        if damage(final) is None:  # the keyed randomness makes a second save of a step the same
            return final
        with writing(folder):
            _make_way(final)
    with written_folder(final) as new:
        for stem, named in tensors.items():
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in named.items()},
                new / f"{stem}.safetensors",
            )
        state = {**state, "step": step, "tensors": sorted(tensors)}
        write_text(new / STATE, json.dumps(state, indent=1))
        write_json(new / MANIFEST, sums.manifest_of(new))
    every = [path for path in _newest_first(folder) if path == final or not _foreign(path)]
    first = every.index(final)
    with writing(folder):
        for other in every[:first] + every[first + max(keep, 1) :]:
            shutil.rmtree(other)
    return final


def damage(path: Path) -> str | None:
    """What is wrong with the checkpoint at `path`, or None where it is whole."""
    if fault := sums.damage(path):
        return fault
    listed, state = sums.read_manifest(path), _state(path)
    if STATE not in listed or state is None:
        return f"it has no {STATE}, or not one that can be read"
    if _name(state["step"]) != path.name:
        return f"it is of step {state['step']} and was renamed"
    for stem in state.get("tensors", []):  # which older versions did not write
        if f"{stem}.safetensors" not in listed:
            return f"{stem}.safetensors is missing in its manifest"
    return None


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint in `folder`; None where there never was one.

    Warns of every damaged one that it passes over. Raises UserError where there are checkpoints but
    none is whole, because starting again at step 0 would quietly throw the run away.
    """
    paths = _newest_first(folder)
    for path in paths:
        try:
            if (fault := damage(path)) is None:
                return _loaded(path)
        except (OSError, SafetensorError) as error:
            fault = f"it cannot be read ({error})"
        warnings.warn(f"passing over the checkpoint {path}: {fault}", stacklevel=2)
    if paths:
        raise UserError(
            f"no checkpoint in {folder} is whole: put one back, or remove {folder.parent} to "
            "begin anew at step 0"
        )
    return None


def _loaded(path: Path) -> Checkpoint:
    state = json.loads((path / STATE).read_bytes())
    files = sorted(path / name for name in sums.read_manifest(path) if name.endswith(SUFFIX))
    tensors = {file.name.removesuffix(SUFFIX): load_file(file) for file in files}
    state.pop("tensors", None)
    return Checkpoint(state.pop("step"), tensors, state)


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Add to what the system refuses in the block from where the run of `folder` goes on."""
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        told = str(error) if isinstance(error, NotWritten) else refusal(error)
        if told is None and isinstance(error, RuntimeError) and _PEER_ENDED.search(str(error)):
            told = LOST
        if told is None or (isinstance(error, UserError) and not isinstance(error, NotWritten)):
            raise
        raise UserError(f"{told}: {goes_on(folder)}") from error


def goes_on(folder: Path) -> str:
    """From where the run of `folder` goes on, as the end of a sentence."""
    whole = (path for path in _newest_first(folder) if not _foreign(path) and not damage(path))
    last = next(whole, None)
    return f"it goes on from {last}, which is whole" if last else "no checkpoint is there yet"


def newest_state(folder: Path) -> dict[str, Any]:
    """The newest `state` that is whole, whatever became of the tensors; {} where there is none."""
    for path in _newest_first(folder):
        try:
            whole = sums.read_manifest(path).get(STATE) == sums.sha256(path / STATE)
        except (OSError, ValueError):
            continue
        if whole and not _foreign(path) and (state := _state(path)) is not None:
            return state
    return {}
