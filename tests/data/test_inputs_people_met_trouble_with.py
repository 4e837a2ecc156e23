"""Each small file of ../shared/inputs gives what its README says is right."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pictures import config, picture

from ldm.core.errors import UserError
from ldm.data.pictures.decoding import decode
from ldm.data.source import open_source

INPUTS = Path(__file__).parents[3] / "shared" / "inputs"

pytestmark = pytest.mark.skipif(
    not INPUTS.is_dir(), reason="no ../shared/inputs beside the project"
)


@pytest.fixture
def captions(tmp_path):
    """Opens images r00.jpg ... under one of the tables: their captions by name, and the notes."""

    def opened(table: str, folder: str = "") -> tuple[dict[str, str], tuple[str, ...]]:
        (tmp_path / folder).mkdir(exist_ok=True)
        for i in range(12):
            picture(i).save(tmp_path / folder / f"r{i:02d}.jpg")
        file = INPUTS / table
        shutil.copy(file, tmp_path / f"metadata{file.suffix}")
        source = open_source(config(tmp_path, holdout=0.0))
        return {source.name(i): source.captions(i)[0] for i in range(len(source))}, source.notes

    return opened


def test_commas_without_quotes_are_read_whole(captions):
    found, notes = captions("commas.csv")
    assert len(found) == 12
    assert set(found.values()) == {"a red rose, dew on the petals, macro photo"}
    assert "12 of 12 rows" in notes[0] and "read whole" in notes[0]


def test_semicolons_are_read(captions):
    found, notes = captions("semicolons.csv")
    assert len(found) == 12 and set(found.values()) == {"a red rose, close up"}
    assert notes == ()


def test_an_unclosed_quote_is_refused_with_its_line(captions):
    with pytest.raises(UserError, match=r"metadata\.csv, line 5: a quote opens in this row"):
        captions("unclosed_quote.csv")


def test_half_an_emoji_is_left_out_with_a_note(captions):
    found, notes = captions("half_an_emoji.jsonl")
    assert set(found.values()) == {"a red rose"}
    assert json.dumps(found, ensure_ascii=False).encode()
    assert notes[0].startswith("1 of 12 captions") and "half characters" in notes[0]


def test_backslashes_are_found(captions):
    found, _ = captions("backslashes.jsonl", folder="img")
    assert found == {f"img/r{i:02d}.jpg": "a red rose" for i in range(12)}


@pytest.mark.parametrize("name", ["caption_bom.txt", "caption_utf16.txt"])
def test_a_caption_is_read_without_the_mark(tmp_path, name):
    picture(0).save(tmp_path / "a.png")
    shutil.copy(INPUTS / name, tmp_path / "a.txt")
    source = open_source(config(tmp_path, holdout=0.0))
    assert source.captions(0) == ("a girl’s red rose in a café",)


def test_the_same_colours_in_display_p3_are_the_same_pixels():
    srgb, wide = (
        np.asarray(decode(INPUTS / f"colours_{name}.png", name), int)
        for name in ("srgb", "display_p3")
    )
    apart = np.abs(wide - srgb)
    # eight bits of P3 leave a dark red open: there even exact arithmetic is up to six off
    assert np.quantile(apart, 0.99) <= 2 and apart.max() <= 7
    chroma = [np.ptp(pixels, axis=-1).mean() for pixels in (wide, srgb)]
    assert abs(chroma[0] / chroma[1] - 1) < 0.01  # unconverted it is 13 to 26 % less


def test_a_picture_with_over_a_megabyte_of_text_is_read():
    assert decode(INPUTS / "long_text_chunk.png", "it").size > (1, 1)
