"""Make the next item while the last one is used."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(items: Iterable[T]) -> Iterator[T]:
    """The same items, each begun in a thread as soon as the one before is taken."""
    source = iter(items)
    end = object()
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(next, source, end)
        while (item := ahead.result()) is not end:
            ahead = thread.submit(next, source, end)
            yield item  # type: ignore[misc]
