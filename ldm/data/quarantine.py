"""Bad images are found once, before training, named in a list and left out."""

import json
import os
from collections.abc import Callable, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from ldm.core.errors import UserError
from ldm.core.files import write_text
from ldm.core.sums import is_sealed, read_sealed, write_sealed
from ldm.core.text import say
from ldm.data.example import Source, Subset
from ldm.data.pictures.bad import BadImage

TOLERATED = 0.01  # the share of bad images beyond which something else must be wrong


def _fault(pending: Callable[[], Image.Image]) -> str | None:
    try:
        pending()
    except BadImage as bad:
        return bad.reason
    return None


def _decode_all(source: Source) -> dict[int, str]:
    """The bad indices and why; threads, as Pillow decodes outside the interpreter's lock."""
    bad: dict[int, str] = {}
    under_way: dict[int, Future[str | None]] = {}

    def settle(index: int) -> None:
        if (why := under_way.pop(index).result()) is not None:
            bad[index] = why
        bar.update()

    workers = min(32, os.cpu_count() or 1)
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(source), desc="checking images", unit="img", leave=False) as bar,
    ):
        for index in range(len(source)):
            if len(under_way) >= 4 * workers:  # encoded images wait in memory
                settle(next(iter(under_way)))
            try:
                pending = source.pending(index)
            except BadImage as fault:
                bad[index] = fault.reason
                bar.update()
            else:
                under_way[index] = pool.submit(_fault, pending)
        for index in list(under_way):
            settle(index)
    return bad


def bad_images(source: Source, folder: Path) -> dict[int, str]:
    """The bad images by index, and why: as `checked` remembers in the folder, else by decoding."""
    if source.trusted or not len(source):
        return {}
    known = _remembered(folder / "checked.json", source)
    return _decode_all(source) if known is None else known


def stops(bad: Sized, source: Source) -> bool:
    """Whether so many are bad that nothing is trained on the others."""
    return len(bad) > TOLERATED * len(source)


def checked(source: Source, folder: Path) -> Source:
    """A source without its bad images, each of which is decoded once to know.

    They are named in folder/quarantine.jsonl, and the result is remembered in folder/checked.json
    until the images change. Raises UserError where more than 1 % are bad; so in a set of fewer
    than 100 images a single bad one has to be repaired or removed.
    """
    if source.trusted or not len(source):
        return source
    memory, listed = folder / "checked.json", folder / "quarantine.jsonl"
    bad = _remembered(memory, source)
    fresh = bad is None
    bad = _decode_all(source) if bad is None else bad
    names = [{"name": source.name(i), "reason": why} for i, why in sorted(bad.items())]
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in names)
    lines = lines.encode("utf-8", "backslashreplace").decode("utf-8")  # names that are no text
    if fresh or not _holds(listed, lines):
        write_text(listed, lines)
    if fresh or not is_sealed(memory):
        write_sealed(memory, {"images": source.image_fingerprint, "bad": sorted(bad.items())})
    if stops(bad, source):
        first, why = min(bad.items())
        raise UserError(
            f"{len(bad)} of {len(source)} images cannot be used, which is over {TOLERATED:.0%}; "
            f"the first is {source.name(first)} ({why}), all are named in "
            f"{folder / 'quarantine.jsonl'}: repair or remove them"
        )
    if not bad:
        return source
    sound = Subset(source, [i for i in range(len(source)) if i not in bad])
    sound.notes = (
        *source.notes,
        f"{len(bad)} of {len(source)} images cannot be used and are left out; they are named in "
        f"{folder / 'quarantine.jsonl'}",
    )
    return sound


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode("utf-8")
    except OSError:
        return False


def _remembered(memory: Path, source: Source) -> dict[int, str] | None:
    """What was found when these very images were last decoded."""
    try:
        known = read_sealed(memory)
        bad = dict(known["bad"]) if known["images"] == source.image_fingerprint else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        say(f"{memory} is damaged: all images are checked again")
        return None
    return bad if bad is None or all(i in range(len(source)) for i in bad) else None
