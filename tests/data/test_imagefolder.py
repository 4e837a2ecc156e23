import json
import logging
import os
import shutil

import pytest
from pictures import config, picture, rows

from ldm.core.errors import UserError
from ldm.data.folder import open_folder
from ldm.data.source import open_source


def whole(root, **options):
    return open_source(config(root, holdout=0.0, **options))


def test_metadata_jsonl_names_images_and_captions(folder):
    source = whole(folder(5, rows(5, text=lambda i: f"number {i}")))
    assert [source.captions(i) for i in range(5)] == [(f"number {i}",) for i in range(5)]
    example = source[3]
    assert example.name == "a/003.png"
    assert example.image.tobytes() == picture(3).tobytes()
    assert example.label is None


def test_metadata_csv_is_read_alike(folder):
    source = whole(folder(5, rows(5, caption=lambda i: f'a "rose", {i}'), csv=True))
    assert source.captions(4) == ('a "rose", 4',)
    assert source.name(4) == "a/004.png"


def test_empty_csv_cells_are_missing_captions(folder):
    source = whole(folder(3, rows(3, caption=lambda i: "a rose" if i == 1 else None), csv=True))
    assert [source.captions(i) for i in range(3)] == [(), ("a rose",), ()]


def test_another_table_at_the_top_will_do(folder):
    root = folder(2, rows(2, text=str))
    (root / "metadata.jsonl").rename(root / "captions.jsonl")
    assert whole(root).captions(1) == ("1",)


@pytest.mark.parametrize("column", ["filename", "image", "path", "file"])
def test_the_file_column_has_several_usual_names(folder, column):
    root = folder(2)
    lines = [json.dumps({column: f"a/{i:03d}.png", "text": str(i)}) for i in range(2)]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    assert whole(root)[1].captions == ("1",)


def test_the_file_column_can_be_named(folder):
    root = folder(2)
    lines = [json.dumps({"where": f"a/{i:03d}.png", "text": str(i)}) for i in range(2)]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"needs a column 'file_name'; its columns are where, text"):
        whole(root)
    assert whole(root, image="where")[1].captions == ("1",)


def test_metadata_may_lie_beside_its_images(folder):
    root = folder(2)
    (root / "b").mkdir()
    picture(9).save(root / "b" / "x.png")
    for name, file in (("a", "001.png"), ("b", "x.png")):
        line = json.dumps({"file_name": file, "text": f"in {name}"})
        (root / name / "metadata.jsonl").write_text(line)
    source = whole(root)
    assert [(source.name(i), *source.captions(i)) for i in range(2)] == [
        ("a/001.png", "in a"),
        ("b/x.png", "in b"),
    ]


def test_images_that_the_metadata_does_not_list_are_counted_and_reported(folder, caplog):
    root = folder(7, rows(4, text=str))
    with caplog.at_level(logging.WARNING):
        source = whole(root)
    assert len(source) == 4
    expected = f"3 of 7 images in {root} are not listed in metadata.jsonl and are left out"
    assert source.notes == (expected,)
    assert [r.message for r in caplog.records] == [expected]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_table_in_another_encoding_gets_a_sentence(folder, name):
    root = folder(1, [])
    for table in root.glob("metadata.*"):
        table.unlink()
    (root / name).write_bytes("file_name,text\na/000.png,au café\n".encode("cp1252"))
    with pytest.raises(UserError, match=rf"{name}, line 2 is not UTF-8 .*: save it as UTF-8"):
        whole(root)


def test_a_line_that_is_not_json_is_named(folder):
    root = folder(2, rows(2, text=str))
    path = root / "metadata.jsonl"
    path.write_text(path.read_text() + '{"file_name": "a/000.png", "text": \n')
    with pytest.raises(UserError, match=r"metadata\.jsonl, line 3 is not JSON"):
        whole(root)
    path.write_text('["a/000.png", "a rose"]\n')
    with pytest.raises(UserError, match="line 1 is not a JSON object"):
        whole(root)


def test_a_row_without_a_file_is_named(folder):
    root = folder(2, [{"file_name": "a/000.png", "text": "x"}, {"text": "y"}])
    with pytest.raises(UserError, match="line 2 has no 'file_name'"):
        whole(root)


def test_a_byte_order_mark_and_blank_lines_do_no_harm(folder):
    root = folder(1)
    line = json.dumps({"file_name": "a/000.png", "text": "é"}, ensure_ascii=False)
    (root / "metadata.jsonl").write_text("\ufeff" + line + "\n\n", "utf-8")
    assert whole(root).captions(0) == ("é",)


def test_text_files_beside_the_images_are_captions(folder):
    root = folder(3)
    (root / "a" / "001.txt").write_text(" a rose \n")
    source = whole(root)
    assert [source.captions(i) for i in range(3)] == [(), ("a rose",), ()]


def test_folders_are_classes_where_there_is_no_metadata(folder):
    root = folder(2)
    (root / "b").mkdir()
    picture(5).save(root / "b" / "0.jpg")
    source = open_source(config(root, holdout=0.0), needs="label")
    assert source.label_names == ("a", "b")
    assert [source.label(i) for i in range(3)] == [0, 0, 1]
    assert source.captions(2) == ("b",)


def test_a_single_folder_is_no_class(folder):
    with pytest.raises(UserError, match="no class column"):
        open_source(config(folder(3)), needs="label")


def test_hidden_files_and_other_files_are_no_images(folder):
    root = folder(2)
    (root / "a" / "notes.md").write_text("x")
    (root / ".thumbnails").mkdir()
    picture(0).save(root / ".thumbnails" / "000.png")
    (root / "a" / "._000.png").write_bytes(b"x")
    assert len(open_source(config(root, holdout=0.0), needs="nothing")) == 2


def test_suffixes_are_read_in_any_case(folder):
    root = folder(1)
    picture(1).save(root / "a" / "B.JPG", "JPEG")
    assert len(open_source(config(root, holdout=0.0), needs="nothing")) == 2


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        whole(tmp_path)


def test_the_fingerprint_changes_with_the_images_and_with_the_captions(folder):
    root = folder(3, rows(3, text=str))
    before = whole(root)
    again = whole(root)
    assert (again.fingerprint, again.image_fingerprint) == (
        before.fingerprint,
        before.image_fingerprint,
    )

    (root / "metadata.jsonl").write_text(
        (root / "metadata.jsonl").read_text().replace('"1"', '"x"')
    )
    recaptioned = whole(root)
    assert recaptioned.image_fingerprint == before.image_fingerprint
    assert recaptioned.fingerprint != before.fingerprint

    path = root / "a" / "001.png"
    stat = path.stat()
    shutil.copy(root / "a" / "002.png", path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert whole(root).image_fingerprint != before.image_fingerprint


def test_captions_by_class_or_by_text_are_different_data(folder):
    root = folder(3, rows(3, text=str, label=str))
    by = {open_source(config(root), needs=n).fingerprint for n in ("caption", "label", "nothing")}
    assert len(by) == 3


def test_an_image_that_is_listed_but_missing_is_bad_when_it_is_read(folder):
    from ldm.data.pictures.bad import BadImage

    root = folder(3, rows(3, text=str))
    (root / "a" / "001.png").unlink()
    source = whole(root)
    assert len(source) == 3
    with pytest.raises(BadImage, match=r"a/001\.png: there is no such file"):
        source[1]


def test_images_are_listed_in_one_order(folder):
    table, _ = open_folder(folder(30), "train", None)
    assert [table.name(i) for i in range(30)] == [f"a/{i:03d}.png" for i in range(30)]
