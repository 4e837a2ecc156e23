"""Where captioned images come from: the config's data section becomes a source."""

import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

from ldm.data.drawn import VALIDATION_START, DrawnFlowers
from ldm.data.example import BadImage, CaptionedByLabel, Captionless, Example, Source, Subset
from ldm.data.folder import FolderTable
from ldm.data.table import Needs, Table, TableSource
from ldm.errors import UserError
from ldm.keyed import uniform

__all__ = ["BadImage", "Example", "Needs", "Source", "Split", "Subset", "open_source"]

Split = Literal["train", "validation"]
DRAWN_SIZE = 20_000
VALIDATION_NAMES = ("validation", "valid", "val", "dev", "test")
log = logging.getLogger(__name__)


class DataOptions(Protocol):
    """What is read of ldm.training.config.DataConfig."""

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
        log.warning(note)


def open_source(
    config: DataOptions, split: Split = "train", seed: int = 0, needs: Needs = "caption"
) -> Source:
    """The images of one split of the configured data, with what the conditioning `needs`.

    needs: "caption" wants a caption column; "label" a class column, whose names become the
    captions; "nothing" reads no caption. Where there is no validation split, `holdout` of the
    images are kept for it, keyed by the seed. Raises UserError where something is not there.
    """
    if not 0 <= config.holdout < 1:
        raise UserError(f"data.holdout={config.holdout} must be a fraction, 0 <= holdout < 1")
    if config.size is not None and config.size < 1:
        raise UserError(f"data.size={config.size} must be at least 1")
    source = (
        _drawn(config, split) if config.source == "drawn" else _stored(config, split, seed, needs)
    )
    if needs == "label":
        source = CaptionedByLabel(source)
    elif needs == "nothing":
        source = Captionless(source)
    for note in source.notes:
        _tell(note)
    return source


def _drawn(config: DataOptions, split: Split) -> Source:
    size = config.size or DRAWN_SIZE
    if split == "train":
        return DrawnFlowers(size, config.resolution)
    return DrawnFlowers(max(1, round(config.holdout * size)), config.resolution, VALIDATION_START)


def _stored(config: DataOptions, split: Split, seed: int, needs: Needs) -> Source:
    if split == "validation" and config.validation is not None:
        if config.validation == "drawn":
            return _drawn(config, split)
        table, _ = open_table(config.validation, "validation", config.image)
        return TableSource(table, config.caption, config.label, needs)
    table, own_split = open_table(config.source, split, config.image)
    source: Source = TableSource(table, config.caption, config.label, needs)
    if split == "validation" and own_split:
        return source
    if config.size is not None and config.size < len(source):
        source = Subset(source, sorted(_ranked(source, seed, "size")[: config.size]))
    if config.validation is not None or own_split or config.holdout == 0:
        if split == "validation":
            return Subset(source, [])
        return source
    if len(source) < 2:
        raise UserError(f"{config.source} has a single image: nothing can be held out of it")
    held = max(1, round(config.holdout * len(source)))
    ranked = _ranked(source, seed, "holdout")
    return Subset(source, sorted(ranked[:held] if split == "validation" else ranked[held:]))


def _ranked(source: Source, seed: int, purpose: str) -> list[int]:
    """All indices in an order keyed by name: an image that joins moves few of the others."""
    return sorted(range(len(source)), key=lambda i: (uniform(seed, purpose, source.name(i)), i))


def open_table(where: str, split: Split, image: str | None) -> tuple[Table, bool]:
    """The table of a split, and whether the data has a validation split of its own."""
    path = Path(where).expanduser()
    if path.is_dir():
        own = next((path / name for name in VALIDATION_NAMES if (path / name).is_dir()), None)
        if (path / "train").is_dir():
            if split == "validation" and own is not None:
                return FolderTable(own), True
            return FolderTable(path / "train"), own is not None
        return FolderTable(path), False
    raise UserError(f"data.source={where} is neither a folder nor anything else that can be read")
