import codecs

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ldm.core.encoding import decoded
from ldm.core.errors import UserError

CAPTION = "a girl’s red rose in a café\r\n二輪の薔薇 🌹"
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("marked", [True, False], ids=["marked", "bare"])
def test_unicode_is_read_with_and_without_its_mark(encoding, marked):
    mark = MARKED[encoding] if marked else b""
    assert decoded(mark + CAPTION.encode(encoding), "it") == CAPTION


@pytest.mark.parametrize("data", [b"", *MARKED.values()])
def test_no_text_is_the_empty_text(data):
    assert decoded(data, "it") == ""


def test_a_stray_nul_does_not_make_utf_8_something_else():
    for text in ("a red rose\x00", "a red rose\x00\x00", "a\x00 rose\x00 in a café\x00"):
        assert decoded(text.encode(), "it") == text


def test_a_letter_that_ends_in_a_zero_byte_does_not_turn_the_order_round():
    text = "a rose on a plate, Ā一 and more"
    for encoding in ("utf-16-le", "utf-16-be"):
        assert decoded(text.encode(encoding), "it") == text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "au café"),
        ("latin-1", "señora"),
        ("cp1251", "красная роза"),
        ("shift-jis", "赤い薔薇"),
        ("gb18030", "红玫瑰"),
        ("big5", "紅玫瑰"),
        ("euc-kr", "빨간 장미"),
    ],
)
def test_an_encoding_that_nothing_tells_is_refused_with_the_line(encoding, text):
    data = b"a rose\r\n\r\n" + text.encode(encoding)
    with pytest.raises(UserError, match=r"it, line 3 is not UTF-8 \(.* at byte .*\): save it as"):
        decoded(data, "it")


def test_text_that_is_cut_within_a_character_is_refused():
    with pytest.raises(UserError, match="line 1 is not UTF-16-LE"):
        decoded(codecs.BOM_UTF16_LE + "rosé".encode("utf-16-le")[:-1], "it")
    with pytest.raises(UserError, match="line 1 is not UTF-8"):
        decoded("rosé".encode()[:-1], "it")


@settings(max_examples=60)
@given(st.binary(max_size=40))
@example(b"\xff\xfe\x00\x00a")
@example(b"\x00")
@example(b"\x00\x00\x00")
def test_any_bytes_are_text_or_a_sentence(data):
    try:
        decoded(data, "it")
    except UserError as error:
        assert "save it as UTF-8" in str(error)


@settings(max_examples=60)
@given(st.text(), st.sampled_from(sorted(MARKED)))
def test_marked_text_is_read_back_exactly(text, encoding):
    if text.startswith("\x00") and encoding == "utf-16-le":
        return  # FF FE 00 00 is also UTF-32's mark
    assert decoded(MARKED[encoding] + text.encode(encoding), "it") == text
