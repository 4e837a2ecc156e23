"""Bad images are found once, before training, named in a list and left out."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ldm.core.errors import UserError
from ldm.core.files import write_text
from ldm.core.sums import is_sealed, read_sealed, write_sealed
from ldm.core.text import say
from ldm.data.example import Source, Subset
from ldm.data.pictures.bad import BadImage

TOLERATED = 0.01  # the share of bad images beyond which something else must be wrong


@dataclass(frozen=True)
class Quarantine:
    """What of a set cannot be used, whatever the fault: named in a list, and tolerated if little.

    `bad` are names and reasons in the set's order, of so many `images`.
    """

    folder: Path
    images: int
    bad: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, source: Source, bad: Mapping[int, str], folder: Path) -> "Quarantine":
        """Of the bad indices and why."""
        return cls(folder, len(source), [(source.name(i), why) for i, why in sorted(bad.items())])

    @property
    def path(self) -> Path:
        """The list: a line of JSON for each, in UTF-8, also where a name is no text."""
        return self.folder / "quarantine.jsonl"

    @property
    def stops(self) -> bool:
        """Whether so many are bad that nothing is trained on the others."""
        return len(self.bad) > TOLERATED * self.images

    def write(self) -> None:
        """Have the list as it should be."""
        lines = [{"name": name, "reason": reason} for name, reason in self.bad]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")  # as JSON escapes, too
        if not _holds(self.path, text):
            write_text(self.path, text)

    def refuse_many(
        self, fault: str = "cannot be used", way: str = "repair or remove them"
    ) -> None:
        """Raise UserError where it `stops`, with what is wrong and the `way` out."""
        if not self.stops:
            return
        first, why = self.bad[0]
        raise UserError(
            f"{len(self.bad)} of {self.images} images {fault}, which is over {TOLERATED:.0%}; "
            f"the first is {first} ({why}), all are named in {self.path}: {way}"
        )


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


def checked(source: Source, folder: Path) -> Source:
    """A source without its bad images, each of which is decoded once to know.

    They are named in folder/quarantine.jsonl, and the result is remembered in folder/checked.json
    until the images change. Raises UserError where more than 1 % are bad; so in a set of fewer
    than 100 images a single bad one has to be repaired or removed.
    """
    if source.trusted or not len(source):
        return source
    memory = folder / "checked.json"
    bad = _remembered(memory, source)
    fresh = bad is None
    bad = _decode_all(source) if bad is None else bad
    quarantine = Quarantine.of(source, bad, folder)
    quarantine.write()
    if fresh or not is_sealed(memory):
        write_sealed(memory, {"images": source.image_fingerprint, "bad": sorted(bad.items())})
    quarantine.refuse_many()
    if not bad:
        return source
    sound = Subset(source, np.delete(np.arange(len(source)), list(bad)))
    sound.notes = (
        *source.notes,
        f"{len(bad)} of {len(source)} images cannot be used and are left out; they are named in "
        f"{quarantine.path}",
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
