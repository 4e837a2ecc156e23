"""Files that are whole or not there, whatever happens while they are written.

Everything is written beside its place under a temporary name, fsynced and renamed. A process killed
at any moment leaves at worst a temporary file, which the next writer of that folder sweeps away.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MARK = ".writing_"  # begins the name of everything that is not there yet


def sync(path: Path) -> None:
    """Have the file or folder at `path` on the disk, not only in memory."""
    if os.name == "nt":  # where a folder cannot be opened, and a file not for this
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """The temporary path of a file to write; it is at `path` when the block ends without raising.

    with written(folder / "results.json") as file: file.write_text(...)

    The folder of `path` is made where it is missing. The name keeps its suffix, by which writers
    of pictures go. Raises what the block raises, and leaves nothing behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_MARK}{os.getpid()}_{path.name}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """The same for a folder, which replaces the one at `path`, with all that it held.

    For folders that only this package writes into. Between two renames there is none at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f"{_MARK}{os.getpid()}_{path.name}{s}") for s in ("", ".old"))
    temporary.mkdir()
    try:
        yield temporary
        for inside in [*temporary.rglob("*"), temporary]:
            sync(inside)
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Put `text` at `path` as UTF-8, whole or not at all."""
    with written(path) as file:
        file.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Put `value` at `path` as JSON, whole or not at all; NaN and infinity, which it lacks, raise.

    Raises ValueError for a float that JSON cannot hold.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left in `folder`.

    For its only writer: another's file that is being written would go too.
    """
    for left_over in folder.glob(f"{_MARK}*"):
        if left_over.is_dir() and not left_over.is_symlink():
            shutil.rmtree(left_over)
        else:
            left_over.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
