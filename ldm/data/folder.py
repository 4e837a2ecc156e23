"""A folder of images: with a table beside them, with a text file for each, or sorted by class."""

import os
import re
from collections.abc import Hashable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ldm.core.errors import UserError
from ldm.data.table import Table, merged
from ldm.data.tables.listing import Listing, leaves, sound
from ldm.data.tables.metadata import read_metadata
from ldm.data.tables.sidecars import sidecar_captions
from ldm.data.tables.splits import Layout, layout

ALONE = ((".jsonl", ".csv"), (".tsv",), (".txt",))  # tables of any name; text by its name only
CAPTIONS = re.compile(r"captions|[^.]+\.token", re.IGNORECASE)  # as Flickr8k's are called


def open_folder(folder: Path, split: str, file_column: str | None) -> tuple[Table, bool]:
    """The images of a split of a folder, and whether it has a validation split of its own.

    Without one, both are the images to train on. Raises UserError where there are none.
    """
    listing = Listing(folder)
    splits = layout((path.split(os.sep)[:-1] for path in listing.images), str(folder))
    own = bool(splits.own("validation"))
    table = FolderTable(listing, file_column, splits, split if own else "train")
    if own and listing.linked:
        table.notes += _on_both_sides(listing, splits)
    return merged(table, table.of_images()), own


def _on_both_sides(listing: Listing, splits: Layout) -> tuple[str, ...]:
    """A note where links put one file into what is trained on and into what is held out."""
    sides: dict[str, set[str]] = {"train": set(), "validation": set()}
    root = os.path.realpath(listing.folder)
    folders: dict[str, str] = {}  # without links
    for path in listing.images:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(os.path.join(root, folder))
        real = os.path.join(folders[folder], name)
        for split, files in sides.items():
            if splits.holds(split, path.split(os.sep)[:-1]):
                files.add(os.path.realpath(real) if path in listing.linked else real)
    both = sides["train"] & sides["validation"]
    if not both:
        return ()
    told = sound(os.path.relpath(min(both), root))
    return (
        f"links in {listing.folder} put images both into what is trained on and into what is held "
        f"out, so that figures of the second tell less: {len(both)}, first {told}",
    )


class FolderTable(Table):
    """The images of a folder, or of a split of it, and what is said about them."""

    def __init__(
        self, listing: Listing, file_column: str | None, splits: Layout, split: str
    ) -> None:
        own = splits.own(split)
        self._folder = listing.folder
        self._root = own[0] if len(own) == 1 and splits.depth == 0 else ""
        self.where = str(listing.folder / self._root)
        self.notes = listing.notes()
        images = [p for p in listing.images if splits.holds(split, p.split(os.sep)[:-1])]
        if not images:
            raise UserError("; ".join((f"{self.where} holds no images", *self.notes)))
        outside = sum(not splits.covers(path.split(os.sep)[:-1]) for path in listing.images)
        if outside:
            self.notes += (
                f"{outside} of {len(listing.images)} images in {listing.folder} lie beside its "
                f"splits {', '.join(splits.folders)} and are left out",
            )
        tables, several = _tables(listing, self._root)
        if several:
            self.hint = (
                f"{' and '.join(several[:4])} are several tables, of which none is read: call the "
                f"one that is meant metadata{Path(several[0]).suffix}"
            )
            self.notes += (f"in {listing.folder}, {self.hint}",)
        if tables:
            self._read_tables(tables, images, listing, file_column, splits, split)
        else:
            self.paths = images
            self._columns = self._from_files(images, listing, splits)
        self.columns = tuple(self._columns)
        self._classes = [] if tables else self._columns.get("label", [])
        linked = bool(listing.linked) or any(map(leaves, self.paths))
        self.fingerprint, self._files = self._states(linked)
        self._first: dict[Hashable, int] = {}  # the row of each file, where classes share some
        if self._classes and len(set(self._files)) < len(self._files):
            for index, file in enumerate(self._files):
                self._first.setdefault(file, index)

    def _read_tables(
        self,
        tables: list[str],
        images: list[str],
        listing: Listing,
        file_column: str | None,
        splits: Layout,
        split: str,
    ) -> None:
        self.paths = []
        rows: list[dict[str, Any]] = []
        known, others = set(images), set(listing.images).difference(images)
        for table in tables:
            names, found = read_metadata(self._folder / table, file_column)
            self.notes += found.notes
            folder = os.path.dirname(table)
            for name, row, line in zip(names, found.values, found.lines, strict=True):
                path = listing.find(name, folder)
                if path not in known:
                    if line in found.short:
                        raise UserError(
                            f"{self._folder / table}, line {line} has fewer cells than the header, "
                            f"and {name!r} is no image: put quotes around text of several lines"
                        )
                    folders = (table if leaves(path) else path).split(os.sep)[:-1]
                    if path in others or not splits.holds(split, folders):
                        continue
                self.paths.append(path)
                rows.append(row)
        columns = dict.fromkeys(key for row in rows for key in row)
        self._columns = {key: [row.get(key) for row in rows] for key in columns}
        unlisted = len(known.difference(self.paths))
        if unlisted:
            self.notes += (
                f"{unlisted} of {len(images)} images in {self.where} are not listed in "
                f"{os.path.basename(tables[0])} and are left out",
            )

    def _from_files(
        self, images: list[str], listing: Listing, splits: Layout
    ) -> dict[str, list[Any]]:
        """Captions from files beside the images; classes from the folders they lie in.

        One class alone is none, but a split may have one of those that others have.
        """
        columns: dict[str, list[Any]] = {}
        texts, notes = sidecar_captions(self._folder, images, listing.others)
        self.notes += notes
        if texts is not None:
            columns["text"] = texts
        elif notes:
            self.hint = notes[0]
        folders = {tuple(path.split(os.sep)[:-1]) for path in listing.images}
        classes = {
            name for path in folders if splits.covers(path) for name in splits.without(path)[:1]
        }
        parents = [splits.without(path.split(os.sep)[:-1]) for path in images]
        if all(parents) and len(classes) > 1:
            columns["label"] = [sound(path[0]) for path in parents]
        return columns

    def _states(self, linked: bool) -> tuple[str, list[Hashable]]:
        """A hash of names, sizes and times: a changed file is seen without reading every one.

        Also gives which file each row is of, whatever links lead to it if some are `linked`.
        """
        digest = blake2b(digest_size=16)
        files: list[Hashable] = []
        for index, path in enumerate(self.paths):
            try:
                stat = os.stat(os.path.join(self._folder, path))
                state = (stat.st_size, stat.st_mtime_ns)
                several = (linked or stat.st_nlink > 1) and stat.st_ino  # 0 where it is not known
                files.append((stat.st_dev, stat.st_ino, *state) if several else path)
            except (OSError, ValueError):  # no file has NUL in its name
                state = (-1, -1)
                files.append(path)
            digest.update(repr((self.name(index), *state)).encode())
        return digest.hexdigest(), files

    def of_images(self) -> Sequence[Hashable]:
        """Of which image each row is: of its file, once in each class that links put it into."""
        if not self._first:
            return self._files
        return list(zip(self._files, self._classes, strict=True))

    def photo(self, index: int) -> str | None:
        return self.name(self._first[self._files[index]]) if self._first else None

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, index: int) -> Path:
        return self._folder / self.paths[index]

    def name(self, index: int) -> str:
        path = self.paths[index]
        root = os.path.join(self._root, "")
        if path.startswith(root):
            return sound(path[len(root) :])
        return sound(str(self._folder / path))

    def values(self, column: str) -> Sequence[Any]:
        return self._columns[column]


def _tables(listing: Listing, root: str) -> tuple[list[str], list[str]]:
    """metadata.jsonl, .csv ... at any depth, else the one table at the top: of the split in the
    folder `root`, or of all. Also gives those of which it is not clear which is meant."""
    tables = [path for path in listing.others if _is_table(listing.folder / path)]
    inside = [path for path in tables if path.startswith(os.path.join(root, ""))]
    top = [path for path in tables if os.sep not in path]
    for some in (inside, top):
        if metadata := [path for path in some if _stem(path) == "metadata"]:
            return metadata, []
    for some in ([path for path in inside if path.count(os.sep) == bool(root)], top):
        for suffixes in ALONE:
            found = [path for path in some if path.lower().endswith(suffixes)]
            if found:
                return (found, []) if len(found) == 1 else ([], found)
    return [], []


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0].lower()


def _is_table(path: Path) -> bool:
    suffix, metadata = path.suffix.lower(), _stem(str(path)) == "metadata"
    if suffix == ".txt":
        return CAPTIONS.fullmatch(path.stem) is not None
    if suffix == ".json":  # a list of rows; others call other things so
        return metadata and path.read_bytes().lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    return suffix in (".jsonl", ".csv", ".tsv") or (suffix == ".parquet" and metadata)
