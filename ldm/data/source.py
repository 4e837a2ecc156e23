"""Where captioned images come from: the config's data section becomes a source."""

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from glob import glob
from itertools import chain
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from ldm.core.errors import UserError
from ldm.core.keyed import uniform
from ldm.core.text import shown
from ldm.data.drawn import VALIDATION_START, DrawnFlowers
from ldm.data.example import CaptionedByLabel, Captionless, Example, Source, Subset
from ldm.data.folder import open_folder
from ldm.data.pictures.bad import BadImage
from ldm.data.table import Needs, Table, TableSource
from ldm.data.tables.listing import Listing, pattern
from ldm.data.tars import TarTable, tar_files

__all__ = [
    "NEEDS",
    "BadImage",
    "Example",
    "Needs",
    "Source",
    "Split",
    "Subset",
    "open_source",
    "open_sources",
]

Split = Literal["train", "validation"]
NEEDS: dict[str, Needs] = {"class": "label", "none": "nothing"}  # of a conditioning; else captions
DRAWN_SIZE = 20_000
NO_STREAM = "data.streaming=true reads parquet, webdataset and the Hub; {} needs none: leave it out"
log = logging.getLogger(__name__)


class DataOptions(Protocol):
    """What is read of ldm.config.DataConfig."""

    @property
    def source(self) -> str: ...
    @property
    def validation(self) -> str | None: ...
    @property
    def holdout(self) -> float: ...
    @property
    def size(self) -> int | None: ...
    @property
    def image(self) -> str | None: ...
    @property
    def caption(self) -> str | None: ...
    @property
    def label(self) -> str | None: ...
    @property
    def streaming(self) -> bool: ...
    @property
    def resolution(self) -> int: ...


@lru_cache(maxsize=256)
def _tell(note: str) -> None:
    """Once per sentence, and on one process of many."""
    if os.environ.get("RANK", "0") == "0":
        log.warning(shown(note))


def open_source(
    config: DataOptions, split: Split = "train", seed: int = 0, needs: Needs = "caption"
) -> Source:
    """The images of one split of the configured data, with what the conditioning `needs`.

    needs: "caption" wants a caption column; "label" a class column, whose names become the
    captions; "nothing" reads no caption. Where there is no validation split, `holdout` of the
    images are kept for it, keyed by the seed. Raises UserError where something is not there.
    """
    return _opened(config, split, seed, needs, {})


def open_sources(
    config: DataOptions, seed: int = 0, needs: Needs = "caption"
) -> dict[Split, Source]:
    """Both splits as `open_source` gives each; rows that they share are read and kept once."""
    parts: dict[Split, Source] = {}
    return {split: _opened(config, split, seed, needs, parts) for split in get_args(Split)}


def _opened(
    config: DataOptions, split: Split, seed: int, needs: Needs, parts: dict[Split, Source]
) -> Source:
    if not 0 <= config.holdout < 1:
        raise UserError(f"data.holdout={config.holdout} must be a fraction, 0 <= holdout < 1")
    if config.size is not None and config.size < 1:
        raise UserError(f"data.size={config.size} must be at least 1")
    apart = split == "validation" and config.validation is not None
    drawn = config.source == "drawn" and not apart
    source = _drawn(config, split) if drawn else _stored(config, split, seed, needs, parts)
    if needs == "label":
        source = CaptionedByLabel(source)
    elif needs == "nothing":
        source = Captionless(source)
    for note in source.notes:
        _tell(note)
    return source


def _drawn(config: DataOptions, split: Split) -> Source:
    if config.streaming:
        raise UserError(NO_STREAM.format("the drawn set"))
    size = config.size or DRAWN_SIZE
    if split == "train":
        return DrawnFlowers(size, config.resolution)
    return DrawnFlowers(max(1, round(config.holdout * size)), config.resolution, VALIDATION_START)


def _stored(
    config: DataOptions, split: Split, seed: int, needs: Needs, parts: dict[Split, Source]
) -> Source:
    """A split of a stored set; `parts` are those that came with another, and where both are put."""
    if split in parts:
        return parts[split]
    if split == "validation" and config.validation is not None:
        if config.validation == "drawn":
            return _drawn(config, split)
        table, _ = open_table(config.validation, "validation", config)
        return TableSource(table, config.caption, config.label, needs)
    table, own_split = open_table(config.source, split, config)
    source: Source = TableSource(table, config.caption, config.label, needs)
    if split == "validation" and own_split:
        return source
    if config.size is not None and config.size < len(source):
        source = Subset(source, np.sort(_ranked(source, seed, "size")[: config.size]))
    if config.validation is not None or own_split or config.holdout == 0:
        if split == "validation":
            return Subset(source, [])
        return source
    if len(source) < 2:
        raise UserError(f"{config.source} has a single image: nothing can be held out of it")
    held = max(1, round(config.holdout * len(source)))
    ranked = _ranked(source, seed, "holdout")
    held = _between_photos(lambda place: source.photo(int(ranked[place])), len(ranked), held)
    both: dict[Split, np.ndarray] = {"train": ranked[held:], "validation": ranked[:held]}
    found: dict[Split, Source] = {name: Subset(source, np.sort(both[name])) for name in both}
    if not source.sequential:  # two that read forwards would each send the other back
        parts.update(found)
    return found[split]


def _ranked(source: Source, seed: int, purpose: str) -> np.ndarray:
    """All indices in an order keyed by name: an image that joins moves few of the others."""

    def key(index: int) -> float:
        return uniform(seed, purpose, source.photo(index) or source.name(index))

    return np.argsort(np.fromiter(map(key, range(len(source))), np.float64), kind="stable")


def _between_photos(photo: Callable[[int], str | None], count: int, at: int) -> int:
    """The first of `count` places from `at` on that parts no photo's examples, else the last."""
    places = chain(range(at, count), range(at - 1, 0, -1))
    return next((i for i in places if (a := photo(i - 1)) is None or a != photo(i)), at)


def open_table(where: str, split: Split, config: DataOptions) -> tuple[Table, bool]:
    """The table of a split, and whether the data has a validation split of its own.

    A folder of images, of parquet or of tar files; such a file or a glob of them; what `datasets`
    saved to disk; else the name of a data set on the Hub.
    """
    path = Path(where).expanduser()
    kind = _kind(where, path)
    if kind != "images":
        return _arrow_table(str(path) if kind else where, kind, split, config)
    if config.streaming:
        raise UserError(NO_STREAM.format(where))
    return open_folder(path, split, config.image)


def _kind(where: str, path: Path) -> str | None:
    """How a local source is stored; None for what can only be a Hub name."""
    by_suffix = {".parquet": "parquet", ".tar": "webdataset"}
    if path.is_dir():
        if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return "saved"
        listing = Listing(path)
        shards = (file for file in listing.others if file.lower().endswith(tuple(by_suffix)))
        return "folder" if not listing.images and any(shards) else "images"
    if path.suffix in by_suffix and (path.is_file() or glob(pattern(str(path)), recursive=True)):
        return by_suffix[path.suffix]
    forms = "a folder of images, a parquet or tar file or a glob of them, or a Hub data set's name"
    if path.is_file():
        raise UserError(f"data.source={where} is a file that cannot be read; it can be {forms}")
    looks_local = where.startswith((".", "/", "~")) or where.count("/") > 1
    if looks_local or path.suffix in by_suffix or any(c in where for c in "*?["):
        raise UserError(f"data.source={where} does not exist; it can be 'drawn', {forms}")
    return None


def _arrow_table(
    where: str, kind: str | None, split: Split, config: DataOptions
) -> tuple[Table, bool]:
    # `datasets` takes a second to import, which the drawn set and folders need not wait for
    from ldm.data.arrow import ArrowTable, load_splits, pick_split
    from ldm.data.stream import StreamTable

    streaming = config.streaming and kind != "saved"
    if shards := tar_files(where, kind):
        files, own = pick_split(shards, split, where)
        size = config.size if streaming else None
        return TarTable(files, where, config.image, size, sequential=streaming), own
    if kind is None and not streaming:
        from ldm.data.hub import hub_archives

        if archives := hub_archives(where):
            files, own = pick_split(archives.splits, split, where)
            return TarTable(files, where, config.image, commit=archives.commit), own
    splits = load_splits(where, kind, streaming)
    data, own = pick_split(splits, split, where)
    if streaming:
        stream = StreamTable(data, where, config.image, config.size)
        return stream.of_images(stream.stored), own
    table = ArrowTable(data, where, config.image)
    return table.of_images(table.stored()), own
