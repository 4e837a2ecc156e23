"""A data set that is read in order, from its shards or the network, and never stored."""

import itertools
import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

from datasets import IterableDataset

from ldm.core.errors import UserError
from ldm.data.arrow import DatasetTable, StoredImage, encoded_image, value_at
from ldm.data.pictures.bad import BadImage


class StreamTable(DatasetTable):
    """Rows of which any may be asked for, but only going forwards is cheap.

    One first pass reads to the end, or `size` rows: it keeps every column but the images, and
    makes the fingerprint of the images' own bytes. Going back starts again from the first row.
    """

    sequential = True

    def __init__(
        self, data: IterableDataset, where: str, image: str | None, size: int | None = None
    ) -> None:
        features = data.features or data._resolve_features().features
        super().__init__(features, where, image)
        self._data = data = data.decode(False)  # also of images that lie in lists
        self._values: dict[str, list[Any]] = {column: [] for column in self.columns}
        self._reader: Iterator[dict[str, Any]] = iter(())
        self._process, self._next = -1, 0
        self._length = 0
        self.stored: list[StoredImage] = []  # what each row has of its image
        content = blake2b(digest_size=16)
        for row in itertools.islice(_told(_rows(data), where, "__url__" in features), size):
            self._length += 1
            for column, path in self.paths.items():
                self._values[column].append(value_at(row, path))
            image = row[self.image_column]
            content.update(_content(image))
            self.stored.append(_stored(image))
        self.fingerprint = content.hexdigest()
        self.names = self._values[self.key_column] if self.key_column else None

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": iter(()), "_process": -1}

    def encoded(self, index: int) -> str | bytes:
        if self._process != os.getpid() or index < self._next:
            # a reader that was inherited by a fork shares its file's position with the parent
            self._reader = _rows(self._data.skip(index))
            self._process, self._next = os.getpid(), index
        row = next(itertools.islice(self._reader, index - self._next, None))
        self._next = index + 1
        return self._at(encoded_image(row[self.image_column], self.name(index)))

    def values(self, column: str) -> Sequence[Any]:
        return self._values[column]


def _rows(data: IterableDataset) -> Iterator[dict[str, Any]]:
    """Every row, also in a DataLoader's worker, where plain iteration gives only its own shards."""
    for batch in data.iter(batch_size=1):
        yield {column: values[0] for column, values in batch.items()}


def _told(rows: Iterator[dict[str, Any]], where: str, tars: bool) -> Iterator[dict[str, Any]]:
    """The rows; where they cannot be read on, a sentence that names the last that could be."""
    row: dict[str, Any] = {}
    number = 0
    try:
        for row in rows:
            number += 1
            yield row
    except Exception as error:  # every reader and file system raises its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        last = f", {row.get('__key__')} of {row.get('__url__')}" if tars and row else ""
        out = "; without data.streaming=true what is broken is named and left out" if tars else ""
        raise UserError(
            f"data.source={where} cannot be read after row {number}{last}: {reason}{out}"
        ) from error


def _stored(image: Any) -> StoredImage:
    if isinstance(image, dict):
        return StoredImage(image.get("path"), bool(image.get("bytes")))
    return StoredImage(image if isinstance(image, str) else None, not isinstance(image, str))


def _content(value: Any) -> bytes:
    """What an image is hashed by: its bytes with their length, so that rows cannot run together."""
    try:
        found = encoded_image(value, "")
    except BadImage:
        found = b""
    data = found.encode() if isinstance(found, str) else found
    return len(data).to_bytes(8, "little") + data
