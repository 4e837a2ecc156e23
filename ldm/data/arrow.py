"""Parquet, webdataset, saved and Hub data sets: what Hugging Face `datasets` reads, as tables."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape, glob
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError

from ldm.core.errors import UserError
from ldm.data.pictures.bad import BadImage
from ldm.data.table import Table, merged
from ldm.data.tables.columns import FILES, IMAGES, find, listed, named
from ldm.data.tables.listing import inside, pattern, sound, spellings, suffixes
from ldm.data.tables.splits import chosen, shards


def load_splits(where: str, kind: str | None, streaming: bool) -> Mapping[str, Any]:
    """All splits of a data set, as `datasets` gives them; raises UserError where it cannot.

    kind: "parquet" or "webdataset" for files or a glob of them, "folder" for a folder of them,
    "saved" for what `save_to_disk` wrote, None for a Hub name, owner/name or owner/name:config.
    """
    with refusing(where, kind):
        if kind == "saved":
            data = load_from_disk(where)
        elif kind == "folder" and escape(where) != where:  # a folder's name is no pattern
            kinds = {"parquet": "parquet", "tar": "webdataset"}
            built = next(kinds[end] for end in kinds if any(Path(where).rglob(f"*.{end}")))
            data = load_dataset(built, data_dir=escape(where), streaming=streaming)
        elif kind == "folder":
            data = load_dataset(where, streaming=streaming)  # splits by the files' names
        elif kind is None:
            name, _, config = where.partition(":")
            data = load_dataset(name, config or None, streaming=streaming)
        else:
            data = load_dataset(kind, data_files=pattern(where), streaming=streaming)
        lone = kind in ("folder", "parquet") and len(data) == 1
        if lone and (apart := _parquet_apart(where)):  # by names that `datasets` does not know
            data = load_dataset("parquet", data_files=apart, streaming=streaming)
    if isinstance(data, Dataset):
        data = DatasetDict(train=data)
    return data


@contextmanager
def refusing(where: str, kind: str | None) -> Iterator[None]:
    """Make a sentence of what `datasets` and the Hub raise for a data set of a kind."""
    try:
        yield
    except Exception as error:  # every builder, file system and the Hub client raise their own
        told = [error]
        if isinstance(error, DatasetGenerationError) and isinstance(error.__cause__, Exception):
            told.append(error.__cause__)
        reason = ": ".join((str(each) or type(each).__name__).splitlines()[0] for each in told)
        place = "a data set on the Hub" if kind is None else f"a {kind} data set"
        absent = "is not here, and " if kind is None and len(told) == 1 else ""
        raise UserError(
            f"data.source={where} {absent}cannot be loaded as {place}: {reason}"
        ) from error


def _parquet_apart(where: str) -> dict[str, list[str]]:
    """The parquet files in a folder, or of a pattern, by their splits; {} where there are none."""
    inside = os.path.join(escape(where), "**", "*.parquet")
    found = glob(inside if os.path.isdir(where) else pattern(where), recursive=True)
    return {split: list(map(escape, files)) for split, files in shards(sorted(found)).items()}


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


class StoredImage(NamedTuple):
    """What a row has of its image: the name of its file, its bytes, or both."""

    path: str | None
    embedded: bool


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
        self._photos: list[str | None] | None = None
        self._folder = _folder(where)  # where files lie that a row names

    def name(self, index: int) -> str:
        name = self.names[index] if self.names is not None else None
        return sound(name) if isinstance(name, str) else f"row {index}"

    def photo(self, index: int) -> str | None:
        return self._photos[index] if self._photos is not None else None

    def of_images(self, stored: Sequence[StoredImage]) -> Table:
        """The table with one row for each file that rows name, by what each of its rows stores.

        Rows that hold copies of one file stay, and `photo` knows of them.
        """
        files = [self._file(image.path) for image in stored]
        self._photos = _shared(files)
        if self._photos is None and self.names is not None:
            self._photos = _shared(list(map(self._file, self.names)))
        rows = enumerate(zip(stored, files, strict=True))
        return merged(self, [i if s.embedded or file is None else file for i, (s, file) in rows])

    def _file(self, name: Any) -> str | None:
        """The name of an image's file, always in one spelling; None for what is no such name."""
        if not isinstance(name, str) or name[name.rfind(".") :].lower() not in suffixes():
            return None
        if name.isascii() and "/" not in name and "\\" not in name:  # most are, of very many
            return name
        path = os.path.normpath(spellings(name)[2])
        return path if self._folder is None else inside(self._folder, path)

    def _at(self, image: str | bytes) -> str | bytes:
        """An image's bytes, or the path where its file lies: as it is, else beside the table."""
        if isinstance(image, bytes) or self._folder is None or os.path.isfile(image):
            return image
        paths = [os.path.join(self._folder, each) for each in spellings(image)]
        return next((path for path in paths if os.path.isfile(path)), image)

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
        return self._at(encoded_image(self._images[index][self.image_column], self.name(index)))

    def stored(self) -> list[StoredImage]:
        """What each row has of its image, without reading the images themselves."""
        found: list[StoredImage] = []
        rows = self._images.with_format("arrow")
        for start in range(0, len(rows), 10_000):
            for some in rows[start : start + 10_000][self.image_column].chunks:
                if pa.types.is_struct(some.type) and {"bytes", "path"} <= set(some.type.names):
                    held = some.field("bytes").is_valid().to_pylist()
                    found += map(StoredImage, some.field("path").to_pylist(), held)
                elif pa.types.is_string(some.type) or pa.types.is_large_string(some.type):
                    found += [StoredImage(path, False) for path in some.to_pylist()]
                else:
                    found += [StoredImage(None, True)] * len(some)
        return found

    def values(self, column: str) -> Sequence[Any]:
        path = self.paths[column]
        rows = self._data.select_columns([path[0]])
        batches = (rows[i : i + 10_000][path[0]] for i in range(0, len(rows), 10_000))
        try:
            return [value_at({path[0]: value}, path) for batch in batches for value in batch]
        except UnicodeDecodeError as error:
            raise UserError(f"column {column!r} of {self.where} is not UTF-8: {error}") from None


def _folder(where: str) -> str | None:
    """The folder of a data set that is stored in files, which may be given as a pattern."""
    folder = where if os.path.isdir(where) else os.path.dirname(where)
    return folder if os.path.isdir(folder) else None


def _shared(files: list[str | None]) -> list[str | None] | None:
    """The file of each row that another row has too; None where no two have the same."""
    counts = Counter(file for file in files if file is not None)
    if len(counts) == counts.total():
        return None
    return [file if file is not None and counts[file] > 1 else None for file in files]


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
