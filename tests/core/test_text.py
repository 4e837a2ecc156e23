import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.core.errors import UserError, exits_with_a_sentence
from ldm.core.text import clean, is_clean, say, shown, shown_lines

ROOT = Path(__file__).parents[2]
HALF = "\ud83c"  # of the rose, whose other half is \udf39


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a red rose 🌹", "a red rose 🌹"),
        ("two\nlines\tand\r\na tab", "two\nlines\tand\r\na tab"),
        ("شجرة\u200f \u200dनमस्ते", "شجرة\u200f \u200dनमस्ते"),  # direction and joiners are text
        (f"a rose {HALF}", "a rose "),
        (f"{HALF}a rose", "a rose"),
        ("a rose \udf39\ud83c!", "a rose !"),  # the wrong way round
        (f"a rose {HALF}\udf39", "a rose 🌹"),
        ("caf\udce9", "caf"),  # a byte that was no UTF-8
        ("a\x00 red\x1b[31m rose\x7f", "a red[31m rose"),
        ("a red\x0brose\x85here", "a red rose here"),
        ("\ufeffa rose", "a rose"),
        ("", ""),
    ],
)
def test_what_is_no_text_is_left_out(text, left):
    assert clean(text) == left
    assert is_clean(text) == (text == left)


@settings(max_examples=50)
@given(st.text(st.characters(categories=None)))
def test_clean_text_can_be_written_and_is_left_as_it_is(text):
    once = clean(text)
    once.encode("utf-8")
    assert clean(once) == once and is_clean(once)


@settings(max_examples=50)
@given(st.text(st.characters(categories=None)))
def test_shown_text_is_one_line_without_controls(text):
    line = shown(text)
    line.encode("utf-8")
    assert line.splitlines() == ([line] if line else [])
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in line)


def test_what_a_terminal_obeys_is_spelt_out():
    assert shown("\x1b[2Ja\u202eb\n\udce9\x9b") == r"\x1b[2Ja\u202eb\n\udce9\x9b"
    assert shown_lines("a\x1b\nb\r") == "a\\x1b\nb\\r"
    assert shown("rosé 🌹 👩\u200d🌾 שלום") == "rosé 🌹 👩\u200d🌾 שלום"


def test_a_commands_sentence_is_one_harmless_line(capsys):
    @exits_with_a_sentence
    def command():
        raise UserError("there is no \x1b[31mred\nerror: rose\u202e\ud83c")

    assert command() == 2
    assert capsys.readouterr().err == (
        "error: there is no \\x1b[31mred\\nerror: rose\\u202e\\ud83c\n"
    )


def test_what_is_said_cannot_steer_the_terminal(capsys):
    say("title\n  a\x1b]0;owned\x07")
    assert capsys.readouterr().out == "title\n  a\\x1b]0;owned\\x07\n"


def test_everything_is_printed_by_say():
    found = []
    files = [p for f in ("ldm", "autoencoder", "pipelines") for p in (ROOT / f).rglob("*.py")]
    for path in [*files, *ROOT.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            printing = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
            if printing and not all(isinstance(words, ast.Constant) for words in node.args):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert [place.partition(":")[0] for place in found] == ["ldm/core/text.py"], found
