"""What tests of files that are made to do harm share: a limited process, and a trace of code."""

import os
import resource
from functools import partial
from pathlib import Path

from tests.faults.experiments import Command

MARKER = "code_has_run"  # a file that only code from outside would make
LDM = "tests.faults.experiments:ldm"


def limited(gib: int) -> None:
    """No more than so much address space above what is taken now."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + gib * 2**30,) * 2)


class Payload:
    """Unpickled, it runs a shell command."""

    def __init__(self, marker: Path) -> None:
        self.command = f"touch '{marker}'"

    def __reduce__(self):
        return os.system, (self.command,)


def ldm(*arguments: object) -> Command:
    """The `ldm` command under these arguments."""
    return Command(LDM, lambda _: [str(a) for a in arguments], ())


def met(note, kind: str, command: Command, place: Path, marker: Path) -> str | None:
    """Run a command that meets a hostile file; what is wrong with its end, or None."""
    ended = command.run(place, partial(limited, 4))
    outcome = ended.outcome(True)
    if marker.exists() or "\x1b" in ended.said:
        outcome = "silent error"
    note(kind, outcome)
    fine = outcome in ("a sentence", "as without it")
    return None if fine else f"{outcome}, status {ended.status}: {ended.said.strip()[-300:]}"


def faults(found: dict[str, str | None]) -> str:
    """Those of the cases at which something was wrong, a paragraph each."""
    return "\n\n".join(f"{what}: {wrong}" for what, wrong in found.items() if wrong)
