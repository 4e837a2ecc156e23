"""Parquet, webdataset, saved and Hub data sets: what Hugging Face `datasets` reads, as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    load_dataset,
    load_from_disk,
)

from ldm.data.columns import FILES, IMAGES, find, listed, named
from ldm.data.example import BadImage
from ldm.data.splits import chosen
from ldm.data.table import Table
from ldm.errors import UserError


def load_splits(where: str, kind: str | None, streaming: bool) -> Mapping[str, Any]:
    """All splits of a data set, as `datasets` gives them; raises UserError where it cannot.

    kind: "parquet" or "webdataset" for files or a glob of them, "folder" for a folder of them,
    "saved" for what `save_to_disk` wrote, None for a Hub name, owner/name or owner/name:config.
    """
    try:
        if kind == "saved":
            data = load_from_disk(where)
        elif kind == "folder":
            data = load_dataset(where, streaming=streaming)  # splits by the files' names
        elif kind is None:
            name, _, config = where.partition(":")
            data = load_dataset(name, config or None, streaming=streaming)
        else:
            data = load_dataset(kind, data_files=where, streaming=streaming)
    except Exception as error:  # every builder, file system and the Hub client raise their own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        place = "a data set on the Hub" if kind is None else f"a {kind} data set"
        absent = "is not here, and " if kind is None else ""
        raise UserError(
            f"data.source={where} {absent}cannot be loaded as {place}: {reason}"
        ) from error
    if isinstance(data, Dataset):
        data = DatasetDict(train=data)
    return data


def pick_split(splits: Mapping[str, Any], split: str, where: str) -> tuple[Any, bool]:
    """The data of a split, and whether there is a validation split of its own.

    Without one, both are the training split, which a lone split is by any name. Raises UserError
    where it is not clear which that is.
    """
    if len(splits) == 1:
        return next(iter(splits.values())), False
    trained, own = chosen(splits, "train"), chosen(splits, "validation")
    if split == "validation" and own:
        return splits[own[0]], True
    if trained:
        return splits[trained[0]], bool(own)
    raise UserError(f"{where} has no split 'train'; its splits are {listed(splits)}")


class DatasetTable(Table):
    """What `datasets` tells of a data set by its features, however its rows are read."""

    def __init__(self, features: Features, where: str, image: str | None) -> None:
        self.where = where
        self.image_column = _image_column(features, image, where)
        self.paths = _flat(features, self.image_column)
        self.columns = tuple(self.paths)
        self._classes = {
            n: tuple(k.names) for n, k in features.items() if isinstance(k, ClassLabel)
        }
        self.class_column = next(iter(self._classes), None)
        self.key_column = find(self.columns, ("__key__", *FILES))
        self.names: Sequence[Any] | None = None  # the values of key_column

    def name(self, index: int) -> str:
        name = self.names[index] if self.names is not None else None
        return name if isinstance(name, str) else f"row {index}"

    def class_names(self, column: str) -> tuple[str, ...] | None:
        return self._classes.get(column)


class ArrowTable(DatasetTable):
    """A data set with random access."""

    def __init__(self, data: Dataset, where: str, image: str | None) -> None:
        super().__init__(data.features, where, image)
        self.fingerprint = data._fingerprint
        self._images = data.select_columns([self.image_column])
        if isinstance(data.features[self.image_column], Image):
            self._images = self._images.cast_column(self.image_column, Image(decode=False))
        self._data = data
        self.names = self.values(self.key_column) if self.key_column else None

    def __len__(self) -> int:
        return len(self._images)

    def encoded(self, index: int) -> str | bytes:
        return encoded_image(self._images[index][self.image_column], self.name(index))

    def values(self, column: str) -> Sequence[Any]:
        path = self.paths[column]
        rows = self._data.select_columns([path[0]])
        batches = (rows[i : i + 10_000][path[0]] for i in range(0, len(rows), 10_000))
        return [value_at({path[0]: value}, path) for batch in batches for value in batch]


def _image_column(features: Features, wanted: str | None, where: str) -> str:
    if wanted is not None:
        return named(list(features), wanted, where, "image")
    typed = [name for name, kind in features.items() if isinstance(kind, Image)]
    found = typed[0] if typed else find(features, IMAGES) or find(features, FILES)
    if found is None:
        raise UserError(
            f"{where} has no image column that is recognised; its columns are {listed(features)}. "
            "Name one with data.image=COLUMN"
        )
    return found


def _flat(features: Features, image: str) -> dict[str, tuple[str, ...]]:
    """Column names, those of a structure's fields with a dot, and the path to each value."""
    columns: dict[str, tuple[str, ...]] = {}
    for name, kind in features.items():
        if name == image or isinstance(kind, Image) or getattr(kind, "dtype", "") == "binary":
            continue
        if isinstance(kind, dict):
            columns |= {f"{name}.{field}": (name, field) for field in kind}
        else:
            columns[name] = (name,)
    return columns


def value_at(row: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value of a flat column in a row."""
    value: Any = row
    for key in path:
        value = None if value is None else value[key]
    return value


def encoded_image(value: Any, name: str) -> str | bytes:
    """The bytes or the path in an image column's undecoded value; raises BadImage."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str | bytes) or not value:
        raise BadImage(name, "there is no image in this row")
    return value
