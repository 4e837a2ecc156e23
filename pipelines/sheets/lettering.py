"""Captions as lines of a picture: any script that a font on this machine has, and never boxes."""

import logging
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

from ldm.core.text import clean

INK = (30, 30, 30)
MOST_LINES = 8
LONGEST = 10_000  # characters, of which so many lines hold a part
JOINERS = "\u200c\u200d"  # in letters of India and Arabia, and in emoji
NO_CHARACTER = "\U0010fffe"  # what fonts draw for this they draw for all that they lack
PREFERRED = (  # fonts of many scripts, or of the scripts that most captions need
    *("notosanscjk", "notosans", "sourcehan", "wqy", "pingfang", "hiragino", "arialuni", "msyh"),
)
STYLED = ("bold", "italic", "oblique", "mono", "serif", "light", "thin", "condensed", "black")
Font = ImageFont.FreeTypeFont
log = logging.getLogger(__name__)


class Lettering:
    """Text of one size."""

    def __init__(self, size: int) -> None:
        self.size = size

    def lines(self, text: str, width: int) -> list[str]:
        """At most MOST_LINES lines no wider than `width` pixels, broken at spaces where possible.

        What is longer ends in an ellipsis; no text gives no line. Characters that no font has are
        spelt as their code points.
        """
        lines: list[str] = []
        for word in self._words(text):
            if lines and self.length(f"{lines[-1]} {word}") <= width:
                lines[-1] += f" {word}"
                continue
            lines.append("")
            for cluster in _clusters(word):
                if lines[-1] and self.length(lines[-1] + cluster) > width:
                    lines.append("")
                lines[-1] += cluster
                if len(lines) > MOST_LINES:
                    return [*lines[: MOST_LINES - 1], self._ended(lines[MOST_LINES - 1], width)]
        return lines

    def _words(self, text: str) -> Iterator[str]:
        for word in clean(text[:LONGEST]).split():
            yield from self._drawable(word).split()

    def length(self, text: str) -> float:
        return sum(font.getlength(part) for part, font in self._parts(text))

    def draw(self, canvas: ImageDraw.ImageDraw, place: tuple[float, float], text: str) -> None:
        """One of the lines, in INK, from its upper left corner."""
        x, y = place
        for part, font in self._parts(text):
            canvas.text((x, y), part, fill=INK, font=font)
            x += font.getlength(part)

    def _ended(self, line: str, width: int) -> str:
        clusters = list(_clusters(line))
        while clusters and self.length("".join(clusters) + "…") > width:
            clusters.pop()
        return "".join(clusters).rstrip() + "…"

    def _drawable(self, word: str) -> str:
        """A word without what only steers, and with code points for what no font has."""
        spelt = False
        told = ""
        for cluster in _clusters("".join(c for c in word if _is_drawn(c))):
            font = font_of(cluster[0], self.size)
            if font is not None and all(has(font, c) for c in cluster if c not in JOINERS):
                told, spelt = told + "]" * spelt + cluster, False
                continue
            _tell_once()
            codes = " ".join(f"U+{ord(c):04X}" for c in cluster if c not in JOINERS)
            told, spelt = f"{told}{' ' if spelt else '['}{codes}", True
        return told + "]" * spelt

    def _parts(self, text: str) -> Iterator[tuple[str, Font]]:
        """The text in runs of one font each; a font is kept to as long as it has the characters."""
        run, font = "", None
        for character in text:
            if font is not None and (_joins(character) or character == " " or has(font, character)):
                run += character
                continue
            other = font_of(character, self.size) or usual_font(self.size)
            if run and font is not None and other is not font:
                yield run, font
                run = ""
            run, font = run + character, other
        if run and font is not None:
            yield run, font


def _is_drawn(character: str) -> bool:
    if "\ufe00" <= character <= "\ufe0f":  # a wish for colour or for none
        return False
    return unicodedata.category(character) != "Cf" or character in JOINERS


def _joins(character: str) -> bool:
    """Whether a character only changes the one before it."""
    return unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf")


def _clusters(word: str) -> Iterator[str]:
    """Characters together with the marks on them, which no line may part."""
    cluster = ""
    for character in word:
        if cluster and not _joins(character) and not cluster.endswith("\u200d"):
            yield cluster
            cluster = ""
        cluster += character
    if cluster:
        yield cluster


@lru_cache(maxsize=64)
def usual_font(size: int) -> Font:
    font = ImageFont.load_default(size)
    assert isinstance(font, Font)  # Pillow is built with FreeType wherever it comes in a wheel
    return font


@lru_cache(maxsize=16384)
def has(font: Font, character: str) -> bool:
    """Whether a font draws a character as something else than what it draws for what it lacks."""
    return _drawn(font, character) != _drawn(font, NO_CHARACTER)


def _drawn(font: Font, character: str) -> tuple[bytes, tuple[int, int], float]:
    mask = font.getmask(character)
    return bytes(mask), mask.size, font.getlength(character)


@lru_cache(maxsize=4096)
def font_of(character: str, size: int) -> Font | None:
    """The first font that has a character: Pillow's own, matplotlib's DejaVu, then the system's."""
    if has(usual_font(size), character):
        return usual_font(size)
    for path in _others():
        font = _opened(path, size)
        if font is not None and has(font, character):
            return font
    return None


@lru_cache(maxsize=256)
def _opened(path: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(path, size)
    except (OSError, ValueError):  # pictures of one size only, or broken
        return None


@lru_cache(maxsize=1)
def _others() -> tuple[str, ...]:
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    def rank(path: str) -> tuple[bool, bool, str]:
        name = Path(path).name.lower().replace("-", "")
        return not name.startswith(PREFERRED), any(style in name for style in STYLED), name

    dejavu = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return (str(dejavu), *sorted(findSystemFonts(), key=rank))


@lru_cache(maxsize=1)
def _tell_once() -> None:
    log.warning(
        "no font on this machine has some characters of the captions, which are drawn as their "
        "code points, as [U+82B1]; with a font such as Noto Sans CJK they are drawn themselves"
    )
