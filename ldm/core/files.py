"""Files that are whole or not there, whatever happens while they are written.

Everything is written in a temporary folder beside its place, fsynced and renamed. A process killed
at any moment leaves at worst that folder, which the next one to write there sweeps away. What the
system refuses, such as space, is a sentence that names the place.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from ldm.core.errors import writing

_HOST = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
# what is not there yet, by machine and process; older versions named no machine
_NAME = re.compile(r"\.writing_(?:([0-9a-f]{8})_(\d+)_\d+|(\d+)_.+)")
_ANOTHERS = 24 * 3600  # seconds that a temporary folder of another machine may be in use
_number = count()
_under_way: set[Path] = set()


def sync(path: Path) -> None:
    """Have the file or folder at `path` on the disk, not only in memory."""
    if os.name == "nt":  # where a folder cannot be opened, and a file not for this
        return
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # some file systems have no such thing for folders
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """The temporary path of a file to write; it is at `path` when the block ends without raising.

    with written(folder / "results.json") as file: file.write_text(...)

    The folder of `path` is made where it is missing; the temporary file has the same name, in
    another. A link is followed. Raises what the block raises, the system's refusals as a UserError,
    and leaves nothing behind then.
    """
    path = _followed(path)
    with writing(path):
        if path.exists() and not (path.is_file() or path.is_dir()):
            yield path  # a device or a pipe, which a file must not replace
            return
        with _aside(path.parent) as aside:
            yield (file := aside / path.name)
            _secure(aside)
            os.replace(file, path)
        sync(path.parent)


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """The same for a folder, which replaces the one at `path`, with all that it held.

    For folders that only this package writes into. Between two renames there is none at `path`.
    """
    path = _followed(path)
    with writing(path):
        with _aside(path.parent) as aside:
            (new := aside / path.name).mkdir()
            yield new
            _secure(aside)
            if path.exists():
                os.replace(path, aside / f"{path.name}.old")
            os.replace(new, path)
        sync(path.parent)


@contextmanager
def published(folder: Path, index: str, ours: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder, whose files join those in `folder` when the block ends without raising.

    For a folder that may hold other people's files, which stay. Readers take a folder without its
    `index` for none; so that goes first and comes last, and nobody reads old files with new ones.
    `ours` names what an earlier call left, and goes where no new file has its name. Raises as
    `written` does.
    """
    folder = _followed(folder)
    with writing(folder):
        with _aside(folder) as new:
            yield new
            _secure(new)
            (folder / index).unlink(missing_ok=True)
            sync(folder)
            for name in ours:
                if not (new / name).exists():
                    (folder / name).unlink(missing_ok=True)
                    with suppress(OSError):
                        (folder / name).parent.rmdir()  # where that was the last one
            files = [file for file in new.rglob("*") if file.is_file() and file != new / index]
            for file in sorted(files):
                place = folder / file.relative_to(new)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, place)
            for place in {folder, *((folder / file.relative_to(new)).parent for file in files)}:
                sync(place)
            os.replace(new / index, folder / index)
        sync(folder)


def write_text(path: Path, text: str) -> None:
    """Put `text` at `path` as UTF-8, whole or not at all."""
    with written(path) as file:
        file.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Put `value` at `path` as JSON, whole or not at all; NaN and infinity, which it lacks, raise.

    Raises ValueError for a float that JSON cannot hold.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def append(path: Path, text: str) -> None:
    """Add `text` to the file at `path`, all of it or, where that is refused, nothing."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                rest = text.encode()
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(end)
                raise


def under_way() -> bool:
    """Whether this process is writing something that is not yet in its place."""
    return bool(_under_way)


def refuse_unwritable(path: Path) -> None:
    """Raise UserError now where a file could not be written at `path` later; leaves no trace."""
    path = _followed(path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file():
            return  # a device or a pipe
        there = path.parent
        while not there.exists() and there != there.parent:
            there = there.parent
        with _aside(there) as aside:
            (probe := aside / path.name).write_bytes(bytes(4096))
            sync(probe)


def sweep(folder: Path, deep: bool = False) -> None:
    """Remove what writers that were killed have left in `folder`, or all below it.

    What another process has under way stays: one of this machine that lives, or one of another
    machine since yesterday.
    """
    for left_over in (folder.rglob if deep else folder.glob)(".writing_*"):
        if (match := _NAME.fullmatch(left_over.name)) and left_over not in _under_way:
            with suppress(OSError):
                if not _in_use(left_over, match[1] or _HOST, int(match[2] or match[3])):
                    _remove(left_over)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _followed(path: Path) -> Path:
    return Path(os.path.realpath(path))


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A new temporary folder in `folder`; it goes with whatever is left in it."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    aside = folder / f".writing_{_HOST}_{os.getpid()}_{next(_number)}"
    _under_way.add(aside)
    try:
        aside.mkdir()
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        _under_way.discard(aside)


def _secure(folder: Path) -> None:
    """Sync all that is in `folder`, readable by whom the umask says (safetensors asks nobody)."""
    for path in folder.rglob("*"):
        if path.is_file():
            with suppress(PermissionError):
                path.chmod(folder.stat().st_mode & 0o666)
        sync(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _in_use(left_over: Path, host: str, process: int) -> bool:
    if host != _HOST or os.name == "nt":
        return time.time() - left_over.stat().st_mtime < _ANOTHERS
    if process == os.getpid():  # and not under way: of an earlier process with this number
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
