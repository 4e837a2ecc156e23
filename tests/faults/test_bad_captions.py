"""Tables of captions as editors, spreadsheets and accidents write them, by the hundred.

The captions are the ones that were written, or the table is refused with its name; never others.
"""

import csv
import io
import json
import random

import pytest
from PIL import Image

from ldm.config import DataConfig
from ldm.core.errors import UserError
from ldm.data.source import open_source

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CAPTIONS = (
    "a red rose",
    "a rose, red, in a vase",
    'the "queen" of roses',
    "eine rote Rose für Käthe",
    "一朵红玫瑰",
    "a rose; a tulip",
    "a rose\twith a tab",
    "first line\nsecond line",
    "emoji 🌹 rose",
    "'single' quotes",
    "#1 rose & <b>bold</b>",
    "x" * 3000,
)
NAMES = tuple(f"rose {i}.png" for i in range(len(CAPTIONS)))
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252")
ENCODINGS += ("gb18030", "shift_jis", "latin-1")


def tables(dice: random.Random):
    """(file name, how it was written, its bytes)."""
    texts = {}
    for delimiter in ",;\t|":
        for end in ("\n", "\r\n", "\r"):
            for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
                out = io.StringIO(newline="")
                rows = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
                rows.writerows([("file_name", "text"), *zip(NAMES, CAPTIONS, strict=True)])
                texts["metadata.csv", f"{delimiter!r} {end!r} {quoting}"] = out.getvalue()
    for ascii_only in (True, False):
        lines = [
            json.dumps({"file_name": name, "text": text}, ensure_ascii=ascii_only)
            for name, text in zip(NAMES, CAPTIONS, strict=True)
        ]
        for end in ("\n", "\r\n", "\n\n"):
            texts["metadata.jsonl", f"{ascii_only} {end!r}"] = end.join(lines) + end
    naive = "\n".join(f"{name},{text}" for name, text in zip(NAMES, CAPTIONS, strict=True))
    texts["metadata.csv", "unquoted"] = "file_name,text\n" + naive
    for (name, how), text in texts.items():
        for encoding in ENCODINGS:
            yield name, f"{how} {encoding}", text.encode(encoding, "replace")
        whole = text.encode()
        for _ in range(4):
            place = dice.randrange(len(whole))
            yield name, f"{how} cut", whole[:place]
            yield name, f"{how} without a byte", whole[:place] + whole[place + 1 :]


def fits(name: str, caption: str, how: str) -> bool:
    """Whether this is what was written for the image; of a damaged table, a part of it."""
    if name.split("/")[-1] not in NAMES:
        return True  # a name without one of its letters: a missing image, which is named elsewhere
    meant = CAPTIONS[NAMES.index(name.split("/")[-1])]
    plain, said = (" ".join(text.split()) for text in (meant, caption))
    for encoding in ENCODINGS:
        if how.endswith(encoding):  # what the encoding cannot say was written as a question mark
            return said in (plain, plain.encode(encoding, "replace").decode(encoding))
    if how.endswith("cut"):  # where nothing says that the last caption went on
        return plain.startswith(said)
    if how.endswith("without a byte"):
        return abs(len(plain) - len(said)) <= 1
    return plain == said


def test_captions_are_those_that_were_written_or_the_table_is_refused(tmp_path, note):
    for number, (name, how, data) in enumerate(tables(random.Random(0))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for image in NAMES:
            Image.new("RGB", (2, 2)).save(folder / image)
        (folder / name).write_bytes(data)
        try:
            source = open_source(DataConfig(source=str(folder), holdout=0))
            found = [(source.name(i), source.captions(i)) for i in range(len(source))]
        except UserError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            note("a table of captions", "a sentence")
            continue
        wrong = [(n, c) for n, texts in found for c in texts if not fits(n, c, how)]
        note("a table of captions", "silent error" if wrong else "as without it")
        assert not wrong, f"{name}, {how}: {wrong[0]}"
        if "cut" not in how and "without" not in how:
            assert len(found) == len(NAMES), f"{name}, {how}: rows are missing"
