"""What a user may cause, or the system refuse, and how a command ends on it: in one sentence."""

import errno
import functools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ldm.core.text import say, shown


class UserError(ValueError):
    """Bad input, said in one sentence that names the thing and the way out."""

    status = 2  # the exit status of a command that it ends


class NotWritten(UserError):
    """The system would not take a file: `place` is what could not be written, `reason` why."""

    def __init__(self, place: str | Path, reason: str, way_out: str) -> None:
        super().__init__(f"{place} cannot be written: {reason}; {way_out}")
        self.reason, self.way_out = reason, way_out


_AGAIN = "and run the same command again"
_FULL = f"free some space, or choose another place, {_AGAIN}"
_CLOSED = f"make it writable, or choose another place, {_AGAIN}"
_WAYS_OUT = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: f"raise the limit (ulimit -f), or choose another place, {_AGAIN}",
    errno.EROFS: _CLOSED,
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EMFILE: f"allow more open files (ulimit -n), {_AGAIN}",
    errno.ENFILE: f"allow more open files, {_AGAIN}",
    errno.EIO: f"see what ails the disk, or choose another place, {_AGAIN}",
}
_LESS = "smaller batches, fewer or smaller images, or a smaller model"
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|Storage size calculation overflowed")
_IN_TEXT = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")  # of Rust, and of another process


def _number(error: BaseException) -> int | None:
    """The errno of an exception; also where a library tells it in words only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _IN_TEXT.search(str(error))
    return int(found[1] or found[2]) if found else None


def _way_out(number: int | None) -> str:
    return _WAYS_OUT.get(number or 0, f"choose another place, {_AGAIN}")


def _reason(error: BaseException) -> str:
    number = _number(error)
    return " ".join(str(error).split()) if number is None else os.strerror(number)


@contextmanager
def writing(place: str | Path) -> Iterator[None]:
    """Turn what the system refuses inside the block into a sentence about `place`.

    Raises NotWritten.
    """
    try:
        yield
    except NotWritten as error:  # of a part of it, under a temporary name
        raise NotWritten(place, error.reason, error.way_out) from None
    except UserError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and _number(error) is None:
            raise
        raise NotWritten(place, _reason(error), _way_out(_number(error))) from error


def refusal(error: BaseException) -> str | None:
    """What the system refused, in one sentence, where that is what `error` comes from."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        asked = re.search(r"allocate ([\d.]+ ?\w+)", str(error))
        wanted = f" for another {asked[1]}" if asked else ""
        return f"there is not enough memory{wanted}; take {_LESS}, {_AGAIN}"
    if isinstance(error, OSError) and error.errno is not None:
        about = f"{error.filename}: " if error.filename else ""
        way_out = f"; {_way_out(error.errno)}" if error.errno in _WAYS_OUT else ""
        return f"{about}{_reason(error)}{way_out}"
    seen: BaseException | None = error
    while seen is not None:
        if (number := _number(seen)) in _WAYS_OUT:
            return f"{os.strerror(number)}; {_way_out(number)}"  # type: ignore[arg-type]
        seen = seen.__cause__ or seen.__context__
    return None


def exits_with_a_sentence(main: Callable[..., int | None]) -> Callable[..., int]:
    """Wrap a command: what a user or the system causes becomes a sentence on stderr and a status.

    2 for a UserError and for what the system refuses, 130 where it is interrupted.
    """

    @functools.wraps(main)
    def command(*args: object) -> int:
        threading.excepthook = _in_a_thread
        try:
            status = main(*args) or 0
            if sys.stdout is not None:
                sys.stdout.flush()  # not at exit, where a refusal is a traceback
            return status
        except UserError as error:
            return last_words(f"error: {shown(str(error))}", error.status)
        except KeyboardInterrupt:
            return last_words("interrupted", 130)
        except BrokenPipeError:  # whoever read what is printed has seen enough
            return last_words(None, 141)
        except Exception as error:
            if (sentence := refusal(error)) is None:
                raise
            return last_words(f"error: {shown(sentence)}", UserError.status)

    return command


def last_words(sentence: str | None, status: int) -> int:
    """Say the last words, as far as anybody hears them; returns `status`."""
    with suppress(OSError):
        if sentence is not None:
            _end_bars()
            say(sentence, sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:  # what it still holds would be tried again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


def _end_bars() -> None:
    """Leave what progress bars have drawn, so that what is said next has a line of its own."""
    if (tqdm := sys.modules.get("tqdm.std")) is not None:
        for bar in list(getattr(tqdm.tqdm, "_instances", ())):
            bar.close()


def _in_a_thread(args: threading.ExceptHookArgs) -> None:
    """Be silent on what the system refused a library's thread: whoever waits for it is told."""
    if args.exc_value is None or refusal(args.exc_value) is None:
        threading.__excepthook__(args)
