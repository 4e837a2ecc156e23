"""Text that came from outside: what of it is text, and how it is shown."""

import re
from collections.abc import Mapping
from typing import TextIO

_SPACES = re.compile(r"[\x0b\x0c\x1c-\x1f\x85]")  # controls that part words
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")
_HARMFUL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff]"  # controls, halves of characters, marks
    r"|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"  # what parts lines or turns their direction
)


def is_clean(text: str) -> bool:
    """Whether `clean` would leave the text as it is."""
    return _NO_TEXT.search(text) is None


def clean(text: str) -> str:
    """The text without what is none: controls, byte order marks, halves of a surrogate pair.

    Tabs and line ends stay. Two halves that belong together become their character.
    """
    if is_clean(text):
        return text
    units = text.encode("utf-16-le", "surrogatepass")
    return _NO_TEXT.sub("", _SPACES.sub(" ", units.decode("utf-16-le", "ignore")))


def shown(text: str) -> str:
    r"""The text on one line of a terminal, where it can do nothing: an escape is written \x1b."""
    return _HARMFUL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown_lines(text: str) -> str:
    """The same of every line of a text that has several."""
    return "\n".join(map(shown, text.split("\n")))


def say(text: object, file: TextIO | None = None) -> None:
    """Print, with nothing in it that a terminal obeys: whatever is printed goes this way."""
    print(shown_lines(str(text)), file=file)


def say_table(rows: Mapping[str, str]) -> None:
    """Print names and what they stand for, one row each."""
    width = max(map(len, rows))
    for name, value in rows.items():
        say(f"{name:<{width}}  {shown(value)}")
