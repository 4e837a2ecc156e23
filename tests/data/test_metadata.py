"""Tables and captions beside images as people have them: JSON, parquet, a file for each image."""

import json
from unicodedata import normalize

import pytest
from pictures import config

from ldm.core.errors import UserError
from ldm.data.source import open_source


def captioned(root, **options):
    source = open_source(config(root, holdout=0.0, **options))
    return {source.name(i): source.captions(i) for i in range(len(source))}, source.notes


# tables


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[" * 100_000, "line 1 cannot be read as JSON: nested too deep"),
        ('{"file_name": "0.png", "text": ' + "[" * 100_000, "line 1 .* nested too deep"),
        ('{"file_name": "0.png",}', "line 1 is not JSON: "),
        ('{"file_name": "0.png", "text": "a", "text": "b"}', "line 1 has the key 'text' twice"),
        ('{"file_name" : "0.png", "text" : "a", "text" : "b"}', "line 1 has the key 'text' twice"),
        ('\n\n{"file_name": ' + "1" * 5000 + "}", "line 3 cannot be read as JSON"),
        ('{"file_name": NaN}', "line 1 has no 'file_name'"),
        ("{'file_name': '0.png'}", "line 1 is not JSON"),
        ('"0.png"', "line 1 is not a JSON object"),
        ('{\n"file_name": "0.png"\n}', "line 1 is not JSON"),
    ],
)
def test_json_that_is_no_row_is_refused_with_its_line(images, content, told):
    root = images("0.png")
    (root / "metadata.jsonl").write_text(content)
    with pytest.raises(UserError, match=rf"metadata\.jsonl, {told}"):
        open_source(config(root))


def test_a_list_of_rows_is_read_like_lines(images):
    root = images("0.png", "1.png")
    entries = [{"file_name": f"{i}.png", "text": 'a "rose": \\ "x"'} for i in range(2)]
    for name in ("metadata.jsonl", "metadata.json"):
        (root / name).write_text(json.dumps(entries, indent=2))
        assert set(captioned(root)[0].values()) == {('a "rose": \\ "x"',)}
        (root / name).unlink()


def test_a_json_file_about_something_else_is_let_alone(images):
    root = images("0.png")
    (root / "metadata.json").write_text('{"license": "CC0"}')
    (root / "0.txt").write_text("a rose")
    assert captioned(root)[0] == {"0.png": ("a rose",)}


def test_a_broken_parquet_table_is_a_sentence(images):
    root = images("0.png")
    (root / "metadata.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"metadata\.parquet cannot be read as parquet: "):
        open_source(config(root))


def test_a_caption_that_runs_over_its_line_is_refused_and_not_cut(images):
    root = images("0.png")
    (root / "metadata.csv").write_text("file_name,text\n0.png,a red rose\nwith dew on it\n")
    with pytest.raises(UserError, match=r"line 3 has fewer cells than the header, and 'with dew"):
        open_source(config(root))


# captions beside the images


@pytest.mark.parametrize("suffix", [".txt", ".TXT", ".caption", ".Caption"])
def test_captions_beside_images_have_several_suffixes(images, suffix):
    root = images("a/0.jpg", "1.png", "2.png")
    (root / f"a/0{suffix}").write_bytes("a café\r\nin red\r\n".encode("utf-16"))
    (root / f"1{suffix}").write_text(" \n\t")
    source = open_source(config(root, holdout=0.0))
    assert {source.name(i): source.captions(i) for i in range(3)} == {
        "1.png": (),
        "2.png": (),
        "a/0.jpg": ("a café\nin red",),
    }
    assert source.notes[0].startswith("2 of 3 captions") and "unconditionally" in source.notes[0]


def test_of_two_captions_the_txt_is_read_and_it_is_told(images):
    root = images("0.png", "1.png")
    for name in ("0.txt", "0.caption", "1.caption"):
        (root / name).write_text(name)
    found, notes = captioned(root)
    assert found == {"0.png": ("0.txt",), "1.png": ("1.caption",)}
    assert notes == (f"images in {root} with a .txt and a .caption, of which the .txt is read: 1",)


def test_captions_of_unknown_encodings_are_refused_and_counted(images):
    root = images(*(f"{i}.png" for i in range(4)))
    for i in range(3):
        (root / f"{i}.txt").write_bytes("赤い薔薇".encode("shift-jis"))
    with pytest.raises(
        UserError, match=r"0\.txt, line 1 is not UTF-8 .*; 2 more captions are alike"
    ):
        open_source(config(root))


def test_a_name_in_another_unicode_form_keeps_its_caption(images):
    root = images(normalize("NFD", "café") + ".png")
    (root / (normalize("NFC", "café") + ".txt")).write_text("coffee")
    assert list(captioned(root)[0].values()) == [("coffee",)]


def test_a_caption_may_be_called_after_the_whole_name_of_its_image(images):
    root = images("a.png", "b.png", "c.png")
    (root / "a.png.txt").write_text("a rose")
    (root / "b.txt").write_text("a tulip")
    (root / "b.png.txt").write_text("not this one")
    source = open_source(config(root, holdout=0.0))
    assert [source.captions(i) for i in range(3)] == [("a rose",), ("a tulip",), ()]


def test_boxes_beside_images_are_no_captions(images):
    root = images("a.png", "b.png")
    (root / "a.txt").write_text("0 0.5 0.5 0.25 0.125\n12 1 0 0.1 1e-05\n")
    with pytest.raises(UserError, match=r"beside images in .* hold boxes and no captions"):
        open_source(config(root))
    assert "hold boxes" in open_source(config(root), needs="nothing").notes[0]
    (root / "b.txt").write_text("2 roses, 3 tulips")
    assert len(open_source(config(root, holdout=0.0)).captions(0)) == 1


def test_of_several_tables_none_is_read_and_that_is_told(images):
    root = images("a.png", "b.png")
    for name in ("labels.csv", "submission.csv"):
        (root / name).write_text("file_name,label\na.png,x\nb.png,y\n")
    told = r"labels\.csv and submission\.csv are several tables, of which none is read"
    with pytest.raises(UserError, match=told):
        open_source(config(root), needs="label")
    (root / "submission.csv").rename(root / "metadata.csv")
    assert open_source(config(root), needs="label").label_names == ("x", "y")
