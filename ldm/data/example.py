"""What a data set is to the rest of the project: an indexed sequence of captioned images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

import numpy as np
from PIL import Image

from ldm.data.captions import Packed

BLOCK = 1 << 14  # elements of a list that are text at once


class Example(NamedTuple):
    """One captioned image; no caption at all means that it trains unconditionally."""

    image: Image.Image  # RGB, upright
    captions: tuple[str, ...]
    label: int | None
    name: str


class Source(ABC):
    """Captioned images by index; everything but the image is known without decoding one."""

    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()  # what the user should know, a sentence each
    trusted = False  # its images cannot be bad
    sequential = False  # only reading forwards is cheap: train on it in its own order
    image_fingerprint: str  # a hash of which images these are, and in which order
    fingerprint: str  # the same, with their captions and labels

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """The decoded image, RGB and upright; raises BadImage."""

    def pending(self, index: int) -> Callable[[], Image.Image]:
        """`image` in two halves: what is read now, in order, and what any thread may do later."""
        return partial(self.image, index)

    @abstractmethod
    def captions(self, index: int) -> tuple[str, ...]: ...

    def label(self, index: int) -> int | None:
        return None

    @abstractmethod
    def name(self, index: int) -> str: ...

    def photo(self, index: int) -> str | None:
        """The file that this example and others are of, so that none of them is held out alone."""
        return None

    def __getitem__(self, index: int) -> Example:
        """Everything about one example; raises BadImage."""
        return Example(self.image(index), self.captions(index), self.label(index), self.name(index))


def digest(*parts: object) -> str:
    """A fingerprint of values that have a stable repr; an array and captions are told as lists."""
    state = blake2b(digest_size=16)
    for text in _told(parts):
        state.update(text.encode("utf-8", "surrogatepass"))
    return state.hexdigest()


def _told(parts: tuple[object, ...]) -> Iterator[str]:
    """`repr(parts)`, of which a list of all images comes in blocks."""
    yield "("
    for number, part in enumerate(parts):
        yield ", " if number else ""
        if isinstance(part, list | np.ndarray | Packed):
            elements = map(int, part) if isinstance(part, np.ndarray) else iter(part)
            opening = "["
            while block := list(islice(elements, BLOCK)):
                yield opening + repr(block)[1:-1]
                opening = ", "
            yield "]" if len(part) else "[]"
        else:
            yield repr(part)
    yield ",)" if len(parts) == 1 else ")"


class _Over(Source):
    """A source seen through another."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.label_names, self.trusted = source.label_names, source.trusted
        self.sequential = source.sequential
        self.notes, self.image_fingerprint = source.notes, source.image_fingerprint
        self.fingerprint = digest(type(self).__name__, source.fingerprint)

    def __len__(self) -> int:
        return len(self.source)

    def image(self, index: int) -> Image.Image:
        return self.source.image(index)

    def pending(self, index: int) -> Callable[[], Image.Image]:
        return self.source.pending(index)

    def captions(self, index: int) -> tuple[str, ...]:
        return self.source.captions(index)

    def label(self, index: int) -> int | None:
        return self.source.label(index)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def photo(self, index: int) -> str | None:
        return self.source.photo(index)


class Subset(_Over):
    """Some examples of a source, in the order of `indices`."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray) -> None:
        super().__init__(source)
        self.indices = np.asarray(indices, np.int64)
        self.image_fingerprint = digest(source.image_fingerprint, self.indices)
        self.fingerprint = digest(source.fingerprint, self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        return self.source.image(int(self.indices[index]))

    def pending(self, index: int) -> Callable[[], Image.Image]:
        return self.source.pending(int(self.indices[index]))

    def captions(self, index: int) -> tuple[str, ...]:
        return self.source.captions(int(self.indices[index]))

    def label(self, index: int) -> int | None:
        return self.source.label(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def photo(self, index: int) -> str | None:
        return self.source.photo(int(self.indices[index]))


class CaptionedByLabel(_Over):
    """A source whose caption is the name of its class."""

    def captions(self, index: int) -> tuple[str, ...]:
        label = self.source.label(index)
        names = self.label_names
        return () if label is None or names is None else (names[label],)


class Captionless(_Over):
    """A source whose captions do not matter."""

    def captions(self, index: int) -> tuple[str, ...]:
        return ()
