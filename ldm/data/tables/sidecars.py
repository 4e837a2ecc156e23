"""Captions in a file of their own beside each image: rose.txt or rose.caption for rose.jpg."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from unicodedata import normalize

from ldm.core.encoding import decoded
from ldm.core.errors import UserError

SUFFIXES = (".txt", ".caption")  # the first that is there is read
BOXES = re.compile(r"(\s*\d+( -?\d+(\.\d+)?(e-?\d+)?){4,}\s*?(\n|$))+")  # as YOLO writes them


def sidecar_captions(
    folder: Path, images: Sequence[str], others: Iterable[str]
) -> tuple[list[str | None] | None, tuple[str, ...]]:
    """The caption beside each image, None where there is none; no list where none has one.

    images and others are paths in the folder. Also gives notes. Raises UserError where a caption
    cannot be read.
    """
    beside: dict[tuple[str, str], str] = {}
    for path in others:
        stem, suffix = os.path.splitext(path)
        if suffix.lower() in SUFFIXES:  # of .txt and .TXT, the one in small letters
            key = normalize("NFC", stem), suffix.lower()
            beside[key] = max(path, beside.get(key, ""))
    found: list[list[str]] = []
    for path in images:  # a.txt, else a.jpg.txt
        names = (normalize("NFC", name) for name in (os.path.splitext(path)[0], path))
        some = ([beside[name, s] for s in SUFFIXES if (name, s) in beside] for name in names)
        found.append(next(filter(None, some), []))
    if not any(found):
        return None, ()
    captions: list[str | None] = []
    refused: list[UserError] = []
    for paths in found:
        try:
            captions.append(_text(folder / paths[0]) if paths else None)
        except UserError as error:
            refused.append(error)
    if refused:
        more = f"; {len(refused) - 1:,} more captions are alike" if len(refused) > 1 else ""
        raise UserError(f"{refused[0]}{more}")
    if all(text is None or ("." in text and BOXES.fullmatch(text)) for text in captions):
        return None, (f"the .txt files beside images in {folder} hold boxes and no captions",)
    both = sum(len(paths) > 1 for paths in found)
    note = f"images in {folder} with a .txt and a .caption, of which the .txt is read: {both}"
    return captions, (note,) if both else ()


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    lines = decoded(data, path).replace("\r\n", "\n").replace("\r", "\n")
    return lines.strip()
