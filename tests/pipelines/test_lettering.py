"""What is written above pictures can be read, or says what it could not write."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipelines.sheets import lettering
from pipelines.sheets.lettering import MOST_LINES, NO_CHARACTER, Lettering, font_of, has, usual_font


@pytest.fixture(autouse=True)
def fonts_that_every_machine_has(monkeypatch):
    """Pillow's and matplotlib's: what else is installed must not decide."""
    dejavu = lettering._others()[:1]
    monkeypatch.setattr(lettering, "_others", lambda: dejavu)
    font_of.cache_clear()
    yield
    font_of.cache_clear()


def drawn(text: str, width: int = 400) -> np.ndarray:
    picture = Image.new("L", (width, 40), "white")
    canvas = ImageDraw.Draw(Image.new("RGB", picture.size, "white"))
    for line in Lettering(16).lines(text, width):
        Lettering(16).draw(canvas, (2, 2), line)
    return np.asarray(canvas._image.convert("L"))


def boxes_in(text: str) -> int:
    """How many characters of the lines the font that draws them lacks."""
    letters = Lettering(16)
    parts = [part for line in letters.lines(text, 2000) for part in letters._parts(line)]
    return sum(not has(font, c) for part, font in parts for c in part if c not in "\u200c\u200d ")


def test_long_captions_wrap_within_the_picture():
    letters = Lettering(14)
    text = "a flower with a very long description " + "x" * 60
    lines = letters.lines(text, 150)
    assert all(letters.length(line) <= 150 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("text", ["x" * 44_000, "word " * 9_000, "قطة " * 9_000, "花" * 5_000])
def test_what_is_longer_than_some_lines_ends_in_an_ellipsis(text):
    letters = Lettering(14)
    lines = letters.lines(text, 150)
    assert len(lines) == MOST_LINES and lines[-1].endswith("…")
    assert all(letters.length(line) <= 150 for line in lines)


def test_text_in_latin_letters_is_drawn_as_pillow_draws_it():
    expected = Image.new("RGB", (400, 40), "white")
    ImageDraw.Draw(expected).text((2, 2), "a red flower", fill=(30, 30, 30), font=usual_font(16))
    assert np.array_equal(drawn("a red flower"), np.asarray(expected.convert("L")))


@pytest.mark.parametrize(
    "text", ["красный цветок", "ένα λουλούδι", "زهرة حمراء", "פרח אדום", "fleur “é” – dash", "😀"]
)
def test_scripts_that_a_font_has_are_drawn(text):
    assert boxes_in(text) == 0
    assert not any("U+" in line for line in Lettering(16).lines(text, 400))
    assert drawn(text).min() < 100


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("花", "[U+82B1]"),
        ("a 花園 b", "a [U+82B1 U+5712] b"),
        ("ab花c", "ab[U+82B1]c"),
        ("एक", "[U+090F U+0915]"),
        ("लाल", "[U+0932 U+093E U+0932]"),
        ("👩‍👧", "[U+1F469 U+1F467]"),
        ("❤️", "❤"),
    ],
)
def test_characters_that_no_font_has_are_spelt_and_never_boxes(text, told):
    assert " ".join(Lettering(16).lines(text, 2000)) == told
    assert boxes_in(text) == 0


def test_code_points_are_not_broken():
    for line in Lettering(16).lines("花園" * 9, 150)[:-1]:
        assert all(
            word.strip("[]").startswith("U+") and len(word.strip("[]")) == 6
            for word in line.split()
        )


@pytest.mark.parametrize("text", ["a\x1b[31m b\x00\x07", "a\u202e b", "a\ud83d b", "a\n\n b\r"])
def test_controls_and_half_characters_do_no_harm(text):
    assert Lettering(16).lines(text, 400)[0].replace("[31m", "") == "a b"
    assert boxes_in(text) == 0


def test_marks_stay_on_their_letters():
    lines = Lettering(16).lines("e\u0301" * 60, 100)
    assert not any(line.startswith("\u0301") for line in lines)


def test_no_text_is_no_line():
    assert Lettering(16).lines(" \n\t ", 100) == Lettering(16).lines("", 100) == []


def test_the_missing_character_is_in_no_font():
    assert font_of(NO_CHARACTER, 16) is None and font_of("a", 16) is usual_font(16)
