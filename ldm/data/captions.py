"""What counts as a caption."""

import ast
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from ldm.core.text import clean, is_clean


def read_captions(value: Any) -> tuple[str, ...]:
    """The usable captions of a column's value, a string or a list of them, clean; or ()."""
    values = value if isinstance(value, list | tuple) else [value]
    texts = (clean(text).strip() for text in values if isinstance(text, str))
    return tuple(text for text in texts if text)


def unpacked(values: Sequence[Any]) -> list[list[str] | None] | None:
    """Captions that are all lists written as text, such as '["a", "b"]', as lists; else None."""
    texts = [v for v in values if v is not None and v != ""]
    if not texts or not all(isinstance(v, str) and v.strip()[:1] == "[" for v in texts):
        return None
    found = [_list(v) if isinstance(v, str) and v else None for v in values]
    return found if sum(v is not None for v in found) == len(texts) else None


def _list(text: str) -> list[str] | None:
    for read in (json.loads, ast.literal_eval):  # also as Python writes lists
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and all(isinstance(each, str) for each in found):
            return found
    return None


def has_no_text(value: Any) -> bool:
    """Whether something in a column's value had to be left out of its captions."""
    values = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(text, str) and not is_clean(text) for text in values)


class Packed(Sequence[tuple[str, ...]]):
    """The captions of many images in one piece of memory, their own bytes and 8 an image.

    They are clean: none holds NUL, which parts those of one image.
    """

    def __init__(self, captions: Iterable[tuple[str, ...]]) -> None:
        texts = bytearray()
        ends = array("q", [0])
        for choices in captions:
            texts += "\0".join(choices).encode()
            ends.append(len(texts))
        self._texts, self._ends = bytes(texts), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        start, end = self._ends[index], self._ends[index + 1]
        return tuple(self._texts[start:end].decode().split("\0")) if start < end else ()


class Captioned(Protocol):
    """A sequence of captioned images, or of what was made of them."""

    def __len__(self) -> int: ...
    def captions(self, index: int, /) -> tuple[str, ...]: ...


def all_captions(data: Captioned) -> Iterator[tuple[str, ...]]:
    """The captions of each image, in order."""
    return (data.captions(i) for i in range(len(data)))
