"""What a network is told of an example besides the example itself: a port, and captions."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ldm.conditions.cache import TextCache, TokenTable

Choose = Callable[[int], int]  # n → one of 0 to n - 1


class Encoding(Protocol):
    """What a model has of a condition: it makes of keys what the network is told."""

    @property
    def encoder(self) -> Any:
        """The nn.Module that does it; None where nothing is learned of it."""
        ...

    def rows(self, keys: Sequence[Any]) -> Tensor:
        """(B, ...) of keys, computed now; None's says nothing."""
        ...


class Condition(Protocol):
    """What training tells the network of an example, under a name in a dictionary."""

    @property
    def dropout(self) -> float:
        """How often training leaves it out, for classifier-free guidance."""
        ...

    def key(self, data: Any, index: int, choose: Choose) -> Hashable | None:
        """Which row is that of an example of `data`, where several would do; None: nothing."""
        ...

    def rows(self, keys: Sequence[Any]) -> Tensor:
        """The rows (B, ...) of keys, computed now or out of a cache; None's says nothing."""
        ...


@dataclass(frozen=True)
class Captions:
    """Text: any of an example's captions, as token ids (B, L) or as a context (B, L, D)."""

    table: TokenTable | TextCache
    dropout: float

    def key(self, data: Any, index: int, choose: Choose) -> str | None:
        choices = data.captions(index)
        return choices[choose(len(choices))] if choices else None

    def rows(self, keys: Sequence[str | None]) -> Tensor:
        return self.table(keys)
