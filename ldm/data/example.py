"""What a data set is to the rest of the project: an indexed sequence of captioned images."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from PIL import Image


class Example(NamedTuple):
    """One captioned image; no caption at all means that it trains unconditionally."""

    image: Image.Image  # RGB, upright
    captions: tuple[str, ...]
    label: int | None
    name: str


class BadImage(Exception):
    """An image that cannot be used, by name, with the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both, so that it survives pickling between processes
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Source(ABC):
    """Captioned images by index; everything but the image is known without decoding one."""

    label_names: tuple[str, ...] | None = None
    fingerprint: str  # a hash of which images these are, and in which order

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """The decoded example; raises BadImage."""

    @abstractmethod
    def captions(self, index: int) -> tuple[str, ...]: ...

    def label(self, index: int) -> int | None:
        return None

    @abstractmethod
    def name(self, index: int) -> str: ...
