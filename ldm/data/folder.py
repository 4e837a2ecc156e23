"""A folder of images: with metadata.jsonl or CSV, with a .txt beside each, or sorted by class."""

import csv
import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ldm.data.columns import FILES, find, listed, named
from ldm.data.table import Table
from ldm.errors import UserError

RASTERS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
TABLES = (".jsonl", ".csv")
SUFFIXES = frozenset((*RASTERS, ".ppm", ".pgm", ".avif", ".jp2"))


def images_in(folder: Path) -> Iterator[Path]:
    """Every image file below a folder, hidden ones left out, in sorted order."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of one metadata file; raises UserError that names the broken line."""
    try:
        return _parsed(path)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None


def _parsed(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [{k: v for k, v in row.items() if k} for row in csv.DictReader(file)]
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number} is not a JSON object of columns")
            rows.append(row)
    return rows


def _metadata_files(folder: Path) -> list[Path]:
    """metadata.jsonl or metadata.csv at any depth, else the one .jsonl or .csv at the top."""
    found = sorted(p for p in folder.rglob("metadata.*") if p.suffix in TABLES)
    if not found:
        found = sorted(p for p in folder.iterdir() if p.suffix in TABLES)
        found = found if len(found) == 1 else []
    return found


class FolderTable(Table):
    """The images of a folder and what is said about them."""

    def __init__(
        self, folder: Path, file_column: str | None = None, split_of: Path | None = None
    ) -> None:
        self.where = str(folder)
        files = list(images_in(folder))
        if not files:
            raise UserError(f"{folder} holds no images")
        metadata = _metadata_files(folder)
        if not metadata and split_of is not None:  # one file at the top may speak of every split
            metadata = sorted(p for p in split_of.glob("metadata.*") if p.suffix in TABLES)
        if metadata:
            self._read_metadata(metadata, files, file_column, split_of is not None)
        else:
            self.files = files
            self._columns = self._from_files(folder)
        self.columns = tuple(self._columns)
        self.fingerprint = self._fingerprint()

    def _read_metadata(
        self, metadata: list[Path], files: list[Path], wanted: str | None, inside_only: bool
    ) -> None:
        self.files = []
        rows: list[dict[str, Any]] = []
        for path in metadata:
            these = _rows(path)
            keys = list(dict.fromkeys(key for row in these for key in row))
            file_column = named(keys, wanted, str(path), "image") if wanted else find(keys, FILES)
            if these and file_column is None:
                raise UserError(
                    f"{path} does not say which image a row is of: it needs a column 'file_name'; "
                    f"its columns are {listed(keys)}"
                )
            for number, row in enumerate(these, 1):
                name = row.pop(file_column or "", None)
                if not isinstance(name, str) or not name:
                    raise UserError(f"{path}, row {number} has no {file_column!r}")
                file = path.parent / name
                if not inside_only or file.is_relative_to(self.where):
                    self.files.append(file)
                    rows.append(row)
        columns = dict.fromkeys(key for row in rows for key in row)
        self._columns = {key: [row.get(key) for row in rows] for key in columns}
        unlisted = len(set(files) - set(self.files))
        if unlisted:
            self.notes = (
                f"{unlisted} of {len(files)} images in {self.where} are not listed in "
                f"{metadata[0].name} and are left out",
            )

    def _from_files(self, folder: Path) -> dict[str, list[Any]]:
        """Captions from .txt files beside the images; classes from the folders they lie in."""
        columns: dict[str, list[Any]] = {}
        texts = [path.with_suffix(".txt") for path in self.files]
        if any(text.is_file() for text in texts):
            columns["text"] = [
                t.read_text("utf-8", "replace").strip() if t.is_file() else None for t in texts
            ]
        parents = [path.relative_to(folder).parent.parts for path in self.files]
        if all(parents) and len({parts[0] for parts in parents}) > 1:
            columns["label"] = [parts[0] for parts in parents]
        return columns

    def _fingerprint(self) -> str:
        """Names, sizes and times: a changed file is seen without reading every one."""
        digest = blake2b(digest_size=16)
        for index, path in enumerate(self.files):
            try:
                stat = path.stat()
                state = (stat.st_size, stat.st_mtime_ns)
            except OSError:
                state = (-1, -1)
            digest.update(repr((self.name(index), *state)).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def encoded(self, index: int) -> Path:
        return self.files[index]

    def name(self, index: int) -> str:
        path = self.files[index]
        return str(path.relative_to(self.where)) if path.is_relative_to(self.where) else str(path)

    def values(self, column: str) -> Sequence[Any]:
        return self._columns[column]
