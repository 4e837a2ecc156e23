"""Which column of a table is the image, the caption and the class."""

from collections.abc import Iterable, Sequence

from ldm.core.errors import UserError

IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "pixel_values", "bytes")
FILES = ("file_name", "filename", "file", "path", "file_path", "image_path", "image", "img")
NAMES = (*FILES, "image_name", "image_file", "img_path", "filepath")  # in a table beside images
CAPTIONS = (  # first what holds all of an image's
    *("captions", "text", "caption", "prompt", "prompts", "txt", "texts", "description"),
    *("descriptions", "sentence", "sentences", "sentences_raw", "title", "alt", "alt_text"),
    "comment",
)
LABELS = (
    *("label", "labels", "class", "class_name", "category", "species", "cls", "fine_label"),
    *("coarse_label", "class_label", "target"),
)


def _leaf(column: str) -> str:
    return column.rsplit(".", 1)[-1].lower()  # json.caption of a webdataset is called caption


def find(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The column whose name comes first in `names`; a plain column before a nested one."""
    columns = sorted(columns, key=lambda column: column.count("."))
    by_name = {_leaf(column): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def duplicate(names: Iterable[str]) -> str | None:
    """The first name that comes a second time, if any does."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def listed(columns: Iterable[str]) -> str:
    return ", ".join(columns) or "none"


def caption_column(
    columns: Sequence[str], wanted: str | None, where: str, needed: bool, classes: str | None
) -> str | None:
    """The caption column that was named, or found by its name.

    Raises UserError where the named one is absent, or where one is needed and none is found.
    """
    if wanted is not None:
        return named(columns, wanted, where, "caption")
    found = find(columns, CAPTIONS)
    if found is None:
        alike = [column for column in columns if "caption" in _leaf(column)]
        found = alike[0] if len(alike) == 1 else None
    if found is None and needed:
        by_class = f", conditioning.kind=class uses {classes!r}" if classes else ""
        raise UserError(
            f"{where} has no caption column that is recognised by its name; its columns are "
            f"{listed(columns)}. Name one with data.caption=COLUMN{by_class}, give a folder a "
            "metadata.jsonl or a .txt beside each image, or train without captions with "
            "conditioning.kind=none"
        )
    return found


def other_captions(columns: Iterable[str], chosen: str) -> list[str]:
    """The columns that could have been taken for the captions in place of the chosen one."""
    return [column for column in columns if _leaf(column) in CAPTIONS and column != chosen]


def label_column(
    columns: Sequence[str], wanted: str | None, where: str, needed: bool, typed: str | None
) -> str | None:
    """The class column that was named, or the one `typed` as such, or found by its name.

    Raises UserError where the named one is absent, or where one is needed and none is found.
    """
    if wanted is not None:
        return named(columns, wanted, where, "label")
    found = typed or find(columns, LABELS)
    if found is None and needed:
        raise UserError(
            f"{where} has no class column that is recognised by its name; its columns are "
            f"{listed(columns)}. Name one with data.label=COLUMN"
        )
    return found


def named(columns: Sequence[str], wanted: str, where: str, option: str) -> str:
    """`wanted`, which must be a column; raises UserError that lists those there are."""
    if wanted not in columns:
        raise UserError(
            f"{where} has no column {wanted!r} (data.{option}); its columns are {listed(columns)}"
        )
    return wanted
