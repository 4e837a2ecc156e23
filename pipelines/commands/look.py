"""What a data set looks like before anything is trained on it."""

from collections import Counter
from pathlib import Path

from ldm.config import load_config
from ldm.core import keyed
from ldm.core.errors import UserError
from ldm.core.files import written
from ldm.data.example import Source
from ldm.data.pictures.bad import BadImage
from ldm.data.quarantine import Quarantine, bad_images
from ldm.data.source import NEEDS, open_sources
from pipelines.sheets.grid import captioned_grid, tiled

SHOWN = 160  # pixels
TOLD = 200  # characters of a caption or a word
NAMED = 5  # bad images


def look_at(config: str | None, overrides: list[str]) -> tuple[Source, dict[str, str]]:
    """The source of a config's data, and the rows of a table about its captions.

    Every image is decoded, as before training. Raises UserError where the config or the data
    cannot be read.
    """
    loaded = load_config(config, overrides)
    needs = NEEDS.get(loaded.conditioning.kind, "caption")
    source, held = open_sources(loaded.data, loaded.seed, needs).values()
    counts: Counter[str] = Counter()
    words: Counter[str] = Counter()
    bare = 0
    for index in range(len(source)):
        captions = source.captions(index)
        bare += not captions
        counts.update(captions)
        words.update(word for caption in captions for word in set(caption.lower().split()))
    rows = {
        "data": loaded.data.source,
        "images": f"{len(source):,} to train on, {bare:,} of them without a caption",
        "captions": f"{counts.total():,}, {len(counts):,} of them distinct",
    }
    if counts:
        lengths = sorted(len(caption.split()) for caption in counts.elements())
        rows["words a caption"] = (
            f"{lengths[0]} to {lengths[-1]}, median {lengths[len(lengths) // 2]}"
        )
        rows["most frequent"] = ", ".join(
            f"{_short(c)!r} x {n:,}" for c, n in counts.most_common(3)
        )
        rows["words"] = ", ".join(f"{_short(word)} {n:,}" for word, n in words.most_common(20))
    if source.label_names:
        labels = Counter(source.label(index) for index in range(len(source)))
        named = (f"{name} {labels[i]:,}" for i, name in enumerate(source.label_names[:20]))
        rows["classes"] = ", ".join(named)
    rows["held out"] = f"{len(held):,}"
    for split, images in (("train", source), ("validation", held)):
        place = loaded.folder / "cache" / "images" / split
        if bad := bad_images(images, place):
            rows[f"bad, {split}"] = _verdict(Quarantine.of(images, bad, place))
    return source, rows


def _verdict(found: Quarantine) -> str:
    bad = found.bad
    named = ", ".join(f"{name} ({why})" for name, why in bad[:NAMED])
    more = f" and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
    then = "training stops until they are repaired or removed" if found.stops else "left out"
    return f"{len(bad):,} of {found.images:,}, {then}: {named}{more}"


def _short(text: str) -> str:
    return text if len(text) <= TOLD else f"{text[:TOLD]}…"


def draw_data(source: Source, path: Path, count: int) -> Path:
    """Draw `count` images, the same ones each time, each under one of its captions.

    Raises UserError where none can be read.
    """
    order = sorted(range(len(source)), key=lambda i: keyed.uniform("look", source.name(i)))
    tiles, told = [], ""
    for index in order:
        try:
            example = source[index]
        except BadImage as bad:
            told = told or str(bad)
            continue
        side = min(example.image.size)
        left, top = ((full - side) // 2 for full in example.image.size)
        box = (left, top, left + side, top + side)  # to crop a giant image is an error to Pillow
        square = example.image.resize((SHOWN, SHOWN), box=box)
        caption = example.captions[0] if example.captions else "(no caption)"
        tiles.append(captioned_grid([(caption, [square])], cell=SHOWN))
        if len(tiles) == count:
            break
    if not tiles:
        raise UserError(f"none of the {len(order):,} images can be read; the first is {told}")
    with written(path) as file:
        tiled(tiles, columns=6).save(file)
    return path
