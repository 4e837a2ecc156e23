"""Webdatasets: tar files whose members of one name are an example, read where they lie."""

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ldm.core.encoding import decoded
from ldm.core.errors import UserError
from ldm.data.example import digest
from ldm.data.pictures.bad import BadImage
from ldm.data.table import Table
from ldm.data.tables.columns import listed
from ldm.data.tables.splits import shards

IMAGES = frozenset(
    [
        "jpg",
        "jpeg",
        "jpe",
        "jfif",
        "png",
        "apng",
        "webp",
        "gif",
        "bmp",
        "tif",
        "tiff",
        "avif",
        "jp2",
        "ppm",
        "pgm",
        "pbm",
        "pnm",
        "heic",
        "heif",
        "jxl",
    ]
)
TEXTS = frozenset(("txt", "text", "caption", "transcript"))
NUMBERS = frozenset(("cls", "cls2", "index", "inx", "id"))
OBJECTS = frozenset(("json", "jsn"))
VALUES = TEXTS | NUMBERS | OBJECTS
LONGEST = 2**24  # bytes of a member that is not an image
EXAMPLE_AND_FIELD = re.compile(r"((?:.*/|)[^./][^/.]*)\.([^/]*)", re.DOTALL)


def tar_files(where: str, kind: str | None) -> dict[str, list[Path]]:
    """The tar files of each split of a local webdataset; none for what is not one."""
    if kind == "webdataset":
        found = [where] if Path(where).is_file() else sorted(glob(where, recursive=True))
        by_split = {"train": found}
    elif kind == "folder" and not any(map(_apart, Path(where).rglob("*.parquet"))):
        # `datasets` takes a second to import, and only it knows all the ways to name a split
        from datasets.data_files import DataFilesDict, get_data_patterns

        files = DataFilesDict.from_patterns(get_data_patterns(where), base_path=where)
        by_split = {str(name): list(paths) for name, paths in files.items()}
    else:
        return {}
    tars = {
        name: [Path(path) for path in paths if path.endswith(".tar") and Path(path).is_file()]
        for name, paths in by_split.items()
    }
    tars = {name: paths for name, paths in tars.items() if paths}
    if len(tars) == 1:  # by names that `datasets` does not know
        apart = shards(map(str, next(iter(tars.values()))))
        return {name: list(map(Path, files)) for name, files in apart.items()} or tars
    return tars


def _apart(parquet: Path) -> bool:
    """Whether a parquet file is data: img2dataset puts what it knows of 0.tar into 0.parquet."""
    return not parquet.with_suffix(".tar").is_file()


class Place(NamedTuple):
    """Where an image's bytes are."""

    shard: Path
    start: int
    size: int


class Row:
    """What is known of one example."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.images: dict[str, Place] = {}  # by field
        self.values: dict[str, Any] = {}  # of columns
        self.fault: str | None = None


class TarTable(Table):
    """The examples of tar files, of which any can be read without unpacking or copying them.

    An example with a broken member, and an archive that is cut off, has a row whose image is bad.
    `size` reads the first rows only; files of a `commit` are told by it and not by their times,
    which are those of the download. Raises UserError where there is no image at all.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        where: str,
        image: str | None = None,
        size: int | None = None,
        sequential: bool = False,
        commit: str | None = None,
    ) -> None:
        self.where, self.sequential = where, sequential
        self._rows: list[Row] = []
        for shard in shards:
            self._rows += _rows(shard, *_state(shard))
            if size is not None and len(self._rows) >= size:
                self._rows = self._rows[:size]
                break
        fields = dict.fromkeys(field for row in self._rows for field in row.images)
        if not fields or (image is not None and image not in fields):
            faults = [f"{row.name}: {row.fault}" for row in self._rows if row.fault]
            what = "image column" if image is None else f"column {image!r} (data.image)"
            about = f"; {faults[0]}" if faults else ""
            raise UserError(f"{where} has no {what}; it has images in {listed(fields)}{about}")
        self._wanted = image
        further = sum(len(row.images) - 1 for row in self._rows if row.images)
        if further and image is None:
            some = listed(list(fields)[:5])
            self.notes += (
                f"images in {where} that are left out: {further:,}; an example's name ends at the "
                f"first dot, and of its images ({some}) the first is read, or data.image=FIELD",
            )
        self.columns = tuple(dict.fromkeys(name for row in self._rows for name in row.values))
        states = [(shard.name, *((commit,) if commit else _state(shard))) for shard in shards]
        self.fingerprint = digest("tars", states, size, image)
        names = [row.name for row in self._rows]
        self._alike = len(set(names)) < len(names)

    def __len__(self) -> int:
        return len(self._rows)

    def encoded(self, index: int) -> bytes:
        row = self._rows[index]
        if row.fault is not None:
            raise BadImage(self.name(index), row.fault)
        field = self._wanted or next(iter(row.images), None)
        if field not in row.images:
            raise BadImage(self.name(index), "there is no image in this example")
        place = row.images[field]
        with place.shard.open("rb") as file:
            data = _read(file, place.start, place.size)
        if len(data) < place.size:
            raise BadImage(self.name(index), f"{place.shard.name} ends within it")
        return data

    def name(self, index: int) -> str:
        row = self._rows[index]
        shard = next((place.shard.stem for place in row.images.values()), None)
        return f"{shard}/{row.name}" if self._alike and shard else row.name

    def values(self, column: str) -> Sequence[Any]:
        return [row.values.get(column) for row in self._rows]


def _state(shard: Path) -> tuple[int, int]:
    stat = shard.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=4096)
def _rows(shard: Path, *state: int) -> list[Row]:
    """The examples of an archive, and one more where the rest of it cannot be read.

    Both splits, and whoever opens the data again, share them as long as its `state` is the same.
    """
    rows: dict[str, Row] = {}
    with shard.open("rb") as file:
        try:
            for member in _members(shard):
                found = EXAMPLE_AND_FIELD.fullmatch(member.name)
                if found is None or found[1].rsplit("/", 1)[-1].startswith("__"):
                    continue  # hidden, or of no example
                key, field = _legible(found[1]), _legible(found[2]).lower()
                row = rows.setdefault(key, Row(key))
                fault = _fault(member, field in row.images or field in row.values)
                if fault is None:
                    fault = _take(row, field, member, shard, file)
                row.fault = row.fault or (fault and f"{field} {fault}")
        except (tarfile.TarError, OSError, ValueError, OverflowError, EOFError) as error:
            broken = rows.setdefault(str(shard), Row(str(shard)))
            broken.fault = f"the archive is cut off or damaged: {error}"
    return list(rows.values())


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    """The headers of an archive. Raises tarfile.ReadError where it ends without its mark."""
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            yield member
            tar.members = []  # type: ignore[attr-defined]  # it would keep them all
        with shard.open("rb") as file:
            if _read(file, tar.offset, 512) != bytes(512):
                raise tarfile.ReadError(f"nothing is read after byte {tar.offset:,}")


def _fault(member: tarfile.TarInfo, double: bool) -> str | None:
    """Why a member is not taken."""
    if ".." in member.name.split("/"):
        return "has a name that leads out of the archive"
    if not member.isreg() or member.issparse():
        return "is a link, a device or a folder and not a file"
    return "is there twice" if double else None


def _take(row: Row, field: str, member: tarfile.TarInfo, shard: Path, file: BinaryIO) -> str | None:
    """Note an image's place, or read a value; returns what is wrong with it."""
    kind = field.rsplit(".", 1)[-1]
    if kind in IMAGES:
        row.images[field] = Place(shard, member.offset_data, member.size)
        return None
    if kind not in VALUES:
        return None
    if member.size > LONGEST:
        return f"is longer than {LONGEST:,} bytes"
    data = _read(file, member.offset_data, member.size)
    if len(data) < member.size:
        return f"is cut off: {shard.name} ends within it"
    try:
        text = decoded(data, field).strip()
        if kind in OBJECTS:
            value = json.loads(text)
            if isinstance(value, dict):
                row.values |= {f"{field}.{name}": v for name, v in value.items()}
                return None
            row.values[field] = value
        else:
            row.values[field] = int(text) if kind in NUMBERS and text.isdecimal() else text
    except (UserError, ValueError, RecursionError) as error:
        return f"cannot be read: {str(error) or type(error).__name__}"
    return None


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def _legible(name: str) -> str:
    """Of a name that is not UTF-8, what is."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
