"""The one exception a user may cause, and how a command ends on it."""

import functools
import sys
from collections.abc import Callable

from ldm.core.text import say, shown


class UserError(ValueError):
    """Bad input, said in one sentence that names the thing and the way out."""

    status = 2  # the exit status of a command that it ends


def exits_with_a_sentence(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap a command: a UserError becomes its sentence on stderr and its exit status."""

    @functools.wraps(main)
    def command(*args: object) -> int:
        try:
            return main(*args) or 0
        except UserError as error:
            say(f"error: {shown(str(error))}", sys.stderr)
            return error.status

    return command
