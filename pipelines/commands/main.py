"""The `ldm` command: each row of COMMANDS is a file beside this one.

It has `arguments`, which declares them, and `run`, whose docstring is the help. What is heavy it
imports when it runs, so that `ldm --help` answers at once.
"""

import ldm.core.interrupts  # noqa: F401 - what comes after takes its time

# isort: split

from argparse import ArgumentParser, Namespace
from typing import Protocol

from ldm import __version__
from ldm.core.errors import exits_with_a_sentence
from pipelines.commands import (
    adherence,
    compare,
    data,
    evaluate,
    explain,
    export,
    generate,
    inspect,
    push,
    report,
)


class Command(Protocol):
    def arguments(self, parser: ArgumentParser) -> None: ...
    def run(self, args: Namespace) -> None: ...


COMMANDS: dict[str, Command] = {
    "generate": generate,
    "evaluate": evaluate,
    "report": report,
    "compare": compare,
    "export": export,
    "adherence": adherence,
    "inspect": inspect,
    "data": data,
    "explain": explain,
    "push": push,
}


@exits_with_a_sentence
def main(arguments: list[str] | None = None) -> None:
    """The `ldm` command; `arguments` are those of the command line unless given."""
    parser = ArgumentParser(
        "ldm", description="Sample, inspect and publish latent diffusion models."
    )
    parser.add_argument("--version", action="version", version=f"ldm {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        about = str(command.run.__doc__)
        sub = commands.add_parser(name, help=about.rstrip("."), description=about)
        command.arguments(sub)
        sub.set_defaults(command=command)
    args = parser.parse_args(arguments)
    args.command.run(args)


if __name__ == "__main__":
    raise SystemExit(main())
