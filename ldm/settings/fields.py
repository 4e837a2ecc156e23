"""What a setting may be: limits, places and names, declared beside the type of its field.

    steps: Annotated[int, Range(1, 10**9)] = 10_000
    source: Annotated[str, Place()] = "drawn"

`check` holds a tree of dataclasses to all of them.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from ldm.core.errors import UserError

LONGEST_NAME = 200  # bytes: file systems take 255, and files are named after it
LARGEST = 2**53  # of the numbers in a free dictionary: float64 counts no further
_REFERENCE = re.compile(r"\$\{[^{}]*:[^{}]*\}")  # as ${oc.env:HOME}


@dataclass(frozen=True)
class Range:
    """A finite number from `least` to `most`; `over` and `under` leave the end itself out.

    With most=inf, infinity is one of them.
    """

    least: float
    most: float
    over: bool = False
    under: bool = False

    def problem(self, value: float) -> str | None:
        if value != value:
            return "must be a number"
        if value < self.least or (self.over and value == self.least):
            return f"must be {'above' if self.over else 'at least'} {self.least:g}"
        if value > self.most or (self.under and value == self.most):
            return f"must be {'below' if self.under else 'at most'} {self.most:g}"
        return None


@dataclass(frozen=True)
class Place:
    """A path, or what may be one: a leading ~ is the home folder, also behind a KIND: before it.

    `inside` are the keys that are places, where the field is a dictionary.
    """

    inside: tuple[str, ...] = ()

    def problem(self, value: Any) -> str | None:
        if isinstance(value, Mapping):
            inside = (self.problem(v) for k, v in value.items() if k in self.inside)
            return next(filter(None, inside), None)
        if value == "":
            return "is empty"
        if isinstance(value, str) and (found := _REFERENCE.search(value)):
            return f"holds {found[0]}, and nothing is looked up in a config: write what is meant"
        return None


@dataclass(frozen=True)
class Name:
    """The name of a file or folder that is made: one part of a path, on any system."""

    def problem(self, value: str) -> str | None:
        if not value or value in (".", "..") or "/" in value or "\\" in value:
            return "must be a single name, without a / or \\"
        if any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in value):
            return "holds a character that no name can have"
        if value[-1] in ". " or value[0] == " ":
            return "must not begin with a space, nor end in one or in a dot"
        if os.name == "nt" and set(value) & set('<>:"|?*'):
            return 'must not hold any of <>:"|?*'
        if len(value.encode()) > LONGEST_NAME:
            return f"is longer than {LONGEST_NAME} bytes"
        return Place().problem(value)


def place(text: str) -> str:
    """`text` with a leading ~ as the home folder, also behind a KIND: as in trained:~/features.

    Something that is there by that very name stays.
    """
    if os.path.lexists(text):
        return text
    kind, colon, rest = text.rpartition(":~")
    return f"{kind}:{os.path.expanduser('~' + rest)}" if colon else os.path.expanduser(text)


def expanded(value: Any, marks: Sequence[Any]) -> Any:
    """A value whose places, where its marks name any, have ~ expanded."""
    for mark in marks:
        if isinstance(mark, Place) and isinstance(value, str):
            value = place(value)
        elif isinstance(mark, Place) and isinstance(value, dict):
            inside = {k: place(v) for k, v in value.items() if k in mark.inside and _is_text(v)}
            value = value | inside
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


@cache
def hints(owner: Any) -> dict[str, Any]:
    """The annotations of a dataclass's fields, resolved, in their order."""
    return get_type_hints(owner, include_extras=True)


def bare(hint: Any) -> tuple[Any, list[Any]]:
    """A hint without Annotated and `| None`, and the marks that it carries."""
    marks: list[Any] = []
    while True:
        if get_origin(hint) is Annotated:
            hint, *found = get_args(hint)
            marks += found
        elif optional(hint):
            (hint,) = (part for part in get_args(hint) if part is not type(None))
        else:
            return hint, marks


def optional(hint: Any) -> bool:
    """Whether None is one of the values."""
    return type(None) in get_args(hint) and len(get_args(hint)) == 2


def check(owner: Any, section: str = "") -> None:
    """Raise UserError for the first field of a tree of dataclasses that its marks refuse."""
    for name, hint in hints(type(owner)).items():  # type: ignore[arg-type]
        value, key = getattr(owner, name), section + name
        if is_dataclass(value):
            check(value, f"{key}.")
        else:
            _check(value, hint, key)


def _check(value: Any, hint: Any, key: str) -> None:
    hint, marks = bare(hint)
    if value is None:
        return
    if isinstance(value, str) and (reason := _text_problem(value, marks)):
        raise UserError(f"{key}={_shown(value)} {reason}")
    for mark in marks:
        if reason := mark.problem(value):
            raise UserError(f"{key}={_shown(value)} {reason}")
    if get_origin(hint) is Literal and value not in get_args(hint):
        raise UserError(f"{key}={_shown(value)} is not one of {', '.join(get_args(hint))}")
    if isinstance(value, Mapping):
        inner = get_args(hint)[1] if get_args(hint) else Any
        for name, item in value.items():
            if reason := _text_problem(name, []):
                raise UserError(f"{key}: the key {name!r} {reason}")
            _check(item, inner, f"{key}: {name}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        inner = next(iter(get_args(hint)), Any)
        for item in value:
            _check(item, inner, key)
    elif hint is Any and isinstance(value, int | float) and not abs(value) <= LARGEST:
        reason = "is too large" if math.isfinite(value) else "must be a finite number"
        raise UserError(f"{key}={_shown(value)} {reason}")


def _text_problem(value: str, marks: list[Any]) -> str | None:
    if "\0" in value:
        return "holds a NUL character"
    if not marks and any("\ud800" <= c <= "\udfff" for c in value):  # a path may be of any bytes
        return "holds half a character: it is no text"
    return None


def _shown(value: Any) -> str:
    return text if len(text := repr(value)) <= 80 else f"{text[:77]}..."
