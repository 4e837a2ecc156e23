"""The commands as users run them, in their own processes, with a fault at a file operation.

A file operation is what can be told apart on a disk: a file opened for writing, fsynced, renamed or
removed, a folder made or removed, a file that safetensors writes. All of one folder are counted.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from tests.training_processes import context, places

HANG = 300  # seconds without an end
ALONE = 60  # that a process may go on for after another one of its run was killed
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
Act = Callable[[str, str], None]


class Ended(NamedTuple):
    status: int | None  # None: it hung
    said: str  # on stderr

    def outcome(self, good: bool, changed: str = "") -> str:
        """Of one that met a fault; `good`: what it left is as without the fault.

        `changed` is a file of a pipeline that people may edit: to name it in a warning is enough.
        """
        if self.status is None:
            return "hang"
        if "Traceback" in self.said:
            return "traceback"
        if self.status == 0:
            warned = changed and f"{changed} changed after the export" in self.said
            return "as without it" if good else "a warning" if warned else "silent error"
        told = any(line.startswith("error: ") for line in self.said.splitlines())
        return "a sentence" if told and self.status == 2 else "silent error"


def run(target: str, arguments: list[str], before=None, folder: Path | None = None) -> Ended:
    """The end of `target` ("train_ldm:main") under command-line arguments; `before` runs first."""
    says = Path(folder or ".") / f".said_{os.getpid()}"
    process = _started(target, arguments, before, says)
    return _ended(process, HANG, says)


def run_both(target: str, arguments: list[str], before, folder: Path) -> list[Ended]:
    """The ends of two processes that belong together, started by hand; `before` runs in both.

    One that is killed has the other as long as ALONE.
    """
    says = [folder / f".said_{rank}" for rank in range(2)]
    both = [
        _started(target, arguments, before, said, place)
        for said, place in zip(says, places(2), strict=True)
    ]
    wait([process.sentinel for process in both], HANG)
    patience = ALONE if any(process.exitcode == -signal.SIGKILL for process in both) else HANG
    return [_ended(process, patience, said) for process, said in zip(both, says, strict=True)]


def _started(target: str, arguments: list[str], before, says: Path, environment=None):
    args = (target, arguments, before, str(says), environment or {})
    process = context().Process(target=_command, args=args)
    process.start()
    return process


def _ended(process, patience: float, says: Path) -> Ended:
    process.join(patience)
    status = process.exitcode
    if status is None:
        process.kill()
        process.join()
    said = says.read_text(errors="replace") if says.exists() else ""
    says.unlink(missing_ok=True)
    return Ended(status, said)


def _command(target: str, arguments: list[str], before, says: str, environment: dict) -> None:
    os.dup2(os.open(says, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", **environment)
    sys.argv = [target.split(":")[0], *arguments]
    if before is not None:
        before()
    module, function = target.split(":")
    sys.exit(getattr(import_module(module), function)())


class _Operations:
    """Counts this process's file operations under a folder, and acts on one."""

    def __init__(self, folder: str, act: Act) -> None:
        self.folder, self.act, self.busy = folder, act, False
        self.process = os.getpid()
        sys.addaudithook(self.heard)
        real = os.fsync

        def fsync(descriptor: int) -> None:
            self.met("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor)

        os.fsync = fsync
        import safetensors.torch

        save = safetensors.torch.serialize_file

        def serialize_file(tensors, filename, *args, **kwargs):
            self.met("open", str(filename))
            save(tensors, filename, *args, **kwargs)

        safetensors.torch.serialize_file = serialize_file

    def heard(self, event: str, arguments: tuple) -> None:
        if event == "open" and arguments[2] & _WRITING and isinstance(arguments[0], str | bytes):
            self.met("open", os.fsdecode(arguments[0]))
        elif event in _EVENTS and isinstance(arguments[0], str | bytes | os.PathLike):
            self.met(event[3:], os.fsdecode(arguments[0]))

    def met(self, operation: str, path: str) -> None:
        inside = os.path.abspath(path).startswith(self.folder)
        if inside and not self.busy and os.getpid() == self.process:
            self.busy = True
            try:
                self.act(operation, path)
            finally:
                self.busy = False


def list_operations(folder: str, into: str) -> None:
    """Write every operation, in order, into the file `into`."""
    file = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _Operations(folder, lambda o, path: os.write(file, f"{o} {path}\n".encode()) and None)


def kill_at(number: int, folder: str) -> None:
    """Kill this process before its operation `number`, from 0.

    A file that it was about to fsync loses its second half, as in a power failure.
    """
    left = number

    def act(operation: str, path: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            if operation == "fsync" and os.path.isfile(path):
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    _Operations(folder, act)


def full_from(number: int, folder: str) -> None:
    """The disk is full from operation `number` on: nothing is written, made or fsynced any more."""
    left = number

    def act(operation: str, path: str) -> None:
        nonlocal left
        left -= 1
        if left < 0 and operation in ("open", "mkdir", "fsync"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    _Operations(folder, act)


def operations_of(target: str, arguments: list[str], folder: Path, scratch: Path) -> list[str]:
    """The operations under `folder` of a command that meets no fault."""
    listed = scratch / "operations.txt"
    ended = run(target, arguments, partial(list_operations, str(folder), str(listed)), scratch)
    assert ended.status == 0, ended.said
    return listed.read_text().splitlines()


def tree(folder: Path, *patterns: str) -> dict[str, object]:
    """The files under `folder` that match, with what they hold."""
    found = (p for pattern in patterns for p in folder.glob(pattern) if p.is_file())
    return {str(p.relative_to(folder)): _content(p) for p in found}


def _content(path: Path) -> object:
    """The bytes of a file; of safetensors, whose metadata have no order, all that is in them."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "np") as file:
        tensors = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
        return file.metadata(), tensors
