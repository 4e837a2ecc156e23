"""A table of images and columns, whatever it is stored in, becomes a source."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ldm.core.errors import UserError
from ldm.core.text import clean
from ldm.data.captions import Packed, has_no_text, read_captions, unpacked
from ldm.data.example import Source, digest
from ldm.data.pictures.decoding import VERSION, decode
from ldm.data.tables.columns import caption_column, label_column, other_captions

Needs = Literal["caption", "label", "nothing"]


class Table(ABC):
    """Rows of named columns, with one encoded image each."""

    where: str  # what a message calls it
    columns: Sequence[str]  # without the image
    fingerprint: str  # of the images alone
    notes: tuple[str, ...] = ()
    class_column: str | None = None  # the one that is typed as a class
    sequential = False  # only reading forwards is cheap
    hint = ""  # why a column may be missing

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def encoded(self, index: int) -> str | Path | bytes:
        """The image's file or its bytes."""

    @abstractmethod
    def name(self, index: int) -> str: ...

    def photo(self, index: int) -> str | None:
        """The file that this row and others are of, where each has a copy of it; else None."""
        return None

    @abstractmethod
    def values(self, column: str) -> Sequence[Any]: ...

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """What the numbers of a class column mean, where that is stored."""
        return None


class Merged(Table):
    """A table whose rows of one image are one, with what all of them say."""

    def __init__(self, table: Table, rows: list[list[int]]) -> None:
        self._table, self._rows = table, rows
        self.where, self.columns, self.class_column = table.where, table.columns, table.class_column
        self.sequential, self.hint = table.sequential, table.hint
        self.fingerprint = digest(table.fingerprint, rows)
        self.notes = (
            *table.notes,
            f"{len(table):,} rows in {table.where} are of {len(rows):,} images: "
            "those of one image are read together, with all their captions",
        )

    def __len__(self) -> int:
        return len(self._rows)

    def encoded(self, index: int) -> str | Path | bytes:
        return self._table.encoded(self._rows[index][0])

    def name(self, index: int) -> str:
        return self._table.name(self._rows[index][0])

    def photo(self, index: int) -> str | None:
        return self._table.photo(self._rows[index][0])

    def values(self, column: str) -> Sequence[Any]:
        values = self._table.values(column)
        return [_together([values[i] for i in rows]) for rows in self._rows]

    def class_names(self, column: str) -> tuple[str, ...] | None:
        return self._table.class_names(column)


def merged(table: Table, images: Sequence[Hashable]) -> Table:
    """The table with one row for each of `images`, which says of which image each row is."""
    if len(set(images)) == len(images):
        return table
    rows: dict[Hashable, list[int]] = {}
    for index, image in enumerate(images):
        rows.setdefault(image, []).append(index)
    return Merged(table, list(rows.values()))


def _together(values: list[Any]) -> Any:
    """What several rows hold in one column: one value where they agree, else a list of all."""
    present = [value for value in values if value is not None and value != ""]
    if all(value == present[0] for value in present[1:]):
        return present[0] if present else None
    return [v for value in present for v in (value if isinstance(value, list) else [value])]


class TableSource(Source):
    """The captioned images of a table."""

    def __init__(self, table: Table, caption: str | None, label: str | None, needs: Needs) -> None:
        self.table = table
        columns, where = table.columns, table.where
        try:
            self.label_column = label_column(
                columns, label, where, needs == "label", table.class_column
            )
            self.caption_column = caption_column(
                columns, caption, where, needs == "caption", self.label_column
            )
        except UserError as error:
            raise UserError(f"{error}; {table.hint}") if table.hint else error from None
        self.image_fingerprint = digest(table.fingerprint, f"decoding {VERSION}")
        self.notes = table.notes
        self.sequential = table.sequential
        self._captions: Packed | None = None
        if self.caption_column and needs == "caption":
            values = table.values(self.caption_column)
            if (lists := unpacked(values)) is not None:
                values = lists
                self.notes += (
                    f"captions in column {self.caption_column!r} of {where} are lists that are "
                    "written as text: each holds several captions",
                )
            self._captions = Packed(map(read_captions, values))
            others = other_captions(columns, self.caption_column)
            other = f"; data.caption={others[0]} would read them from there" if others else ""
            if not any(self._captions):
                raise UserError(
                    f"none of the captions in column {self.caption_column!r} of {where} is text"
                    f"{other}; conditioning.kind=none trains without"
                )
            self._note(
                sum(not captions for captions in self._captions),
                f"captions in column {self.caption_column!r} of {where} are empty, missing or not "
                "text: these images train unconditionally",
            )
            self._note(
                sum(map(has_no_text, values)),
                f"captions in column {self.caption_column!r} of {where} have half characters or "
                "controls in them, which are left out",
            )
            if other and caption is None:
                told = f"captions are read from column {self.caption_column!r} of {where}{other}"
                self.notes = (*self.notes, told)
        self._labels: list[int | None] | None = None
        if self.label_column:
            self._labels = labels = self._read_labels(self.label_column)
            if needs == "label" and self.label_names is None:
                raise UserError(
                    f"column {self.label_column!r} of {where} holds no classes: it needs text or "
                    "whole numbers; name another with data.label=COLUMN"
                )
            if needs == "label":
                self._note(
                    labels.count(None),
                    f"classes in column {self.label_column!r} of {where} are missing: "
                    "these images train unconditionally",
                )

        self.fingerprint = digest(table.fingerprint, self._captions, self._labels, self.label_names)

    def _note(self, count: int, fact: str) -> None:
        if count:
            self.notes = (*self.notes, f"{count} of {len(self.table)} {fact}")

    def _read_labels(self, column: str) -> list[int | None]:
        values = self.table.values(column)
        names = self.table.class_names(column)
        if names is not None:
            self.label_names = names
            return [v if isinstance(v, int) and v >= 0 else None for v in values]
        values = [clean(v) if isinstance(v, str) else v for v in values]
        present = {v for v in values if isinstance(v, str | int) and v != ""}
        # numbers in their own order, not in that of their digits
        ordered = sorted(present, key=lambda v: (isinstance(v, str), v))
        names = tuple(dict.fromkeys(map(str, ordered)))  # 1 and "1" are one class
        number = {name: k for k, name in enumerate(names)}
        self.label_names = names or None
        return [number.get(str(v)) if v is not None else None for v in values]

    def __len__(self) -> int:
        return len(self.table)

    def image(self, index: int) -> Image.Image:
        return self.pending(index)()

    def pending(self, index: int) -> Callable[[], Image.Image]:
        return partial(decode, self.table.encoded(index), self.name(index))

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions[index] if self._captions is not None else ()

    def label(self, index: int) -> int | None:
        return self._labels[index] if self._labels is not None else None

    def name(self, index: int) -> str:
        return self.table.name(index)

    def photo(self, index: int) -> str | None:
        return self.table.photo(index)
