import json
import logging

import pandas
import pytest
from pictures import config, rows

from ldm.core.errors import UserError
from ldm.data.captions import read_captions
from ldm.data.source import open_source
from ldm.data.tables.columns import caption_column, find, label_column


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        ("a rose", ("a rose",)),
        ("  a rose\n", ("a rose",)),
        (["a rose", "", None, 3, " a tulip "], ("a rose", "a tulip")),
        (("a", "b"), ("a", "b")),
        ("", ()),
        ("   ", ()),
        (None, ()),
        (7, ()),
        (float("nan"), ()),
        ([], ()),
        ({"en": "a rose"}, ()),
    ],
)
def test_only_text_is_a_caption(value, captions):
    assert read_captions(value) == captions


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["caption", "text"], "text"),
        (["id", "Caption"], "Caption"),
        (["prompt", "captions"], "captions"),
        (["text", "captions"], "captions"),  # all of an image's before one of them
        (["json.caption", "__key__"], "json.caption"),
        (["json.text", "txt"], "json.text"),
        (["blip_caption", "id"], "blip_caption"),
        (["short_caption", "long_caption"], None),
        (["id", "width"], None),
    ],
)
def test_caption_columns_are_found_by_name(columns, found):
    assert caption_column(columns, None, "it", False, None) == found


def test_a_plain_column_comes_before_a_nested_one_of_that_name():
    assert find(["json.text", "text"], ["text"]) == "text"


def test_a_named_column_wins():
    assert caption_column(["text", "mine"], "mine", "it", True, None) == "mine"
    assert label_column(["label", "mine"], "mine", "it", True, None) == "mine"


def test_a_typed_class_column_comes_before_a_named_like_one():
    assert label_column(["label", "kind"], None, "it", True, "kind") == "kind"


def test_no_caption_column_ends_with_a_sentence_that_lists_the_columns(folder):
    root = folder(4, rows(4, species=str, width=lambda i: i))
    with pytest.raises(UserError) as error:
        open_source(config(root))
    for part in ("species, width", "data.caption=COLUMN", "conditioning.kind=none", str(root)):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_caption_column_that_is_not_there_is_named(folder):
    root = folder(4, rows(4, text=str))
    with pytest.raises(
        UserError, match=r"no column 'texts' \(data.caption\); its columns are text"
    ):
        open_source(config(root, caption="texts"))


def test_a_column_of_nothing_that_is_text_is_refused(folder):
    root = folder(4, rows(4, text=str, captions=lambda i: [{"raw": str(i)}]))
    with pytest.raises(UserError, match=r"none .* 'captions' .* is text; data\.caption=text would"):
        open_source(config(root))
    assert open_source(config(root, caption="text", holdout=0.0)).captions(2) == ("2",)
    assert open_source(config(root), needs="nothing").captions(2) == ()


def test_another_column_that_could_be_the_captions_is_told(folder):
    root = folder(4, rows(4, text=str, captions=lambda i: [str(i), f"the {i}."]))
    source = open_source(config(root))
    assert len(source.captions(0)) == 2
    assert [note for note in source.notes if "data.caption=text would" in note] == [*source.notes]
    assert open_source(config(root, caption="captions")).notes == ()


def test_no_class_column_ends_with_a_sentence_that_lists_the_columns(folder):
    root = folder(4, rows(4, text=str))
    with pytest.raises(UserError, match=r"no class column .* are text\. .*data\.label=COLUMN"):
        open_source(config(root), needs="label")


def test_a_class_column_without_classes_is_refused(folder):
    root = folder(4, rows(4, label=lambda i: [i, 2.5]))
    with pytest.raises(UserError, match=r"'label' .* holds no classes"):
        open_source(config(root), needs="label")


def test_unusable_captions_are_unconditional_and_reported_once(folder, caplog):
    values = ["a rose", "", None, 5, ["", "a tulip"], [], "  ", "a daisy"]
    root = folder(8, rows(8, text=lambda i: values[i]))
    with caplog.at_level(logging.WARNING):
        for split in ("train", "validation", "train"):
            source = open_source(config(root, holdout=0.25), split)
    assert sum("train unconditionally" in r.message for r in caplog.records) == 1
    (note,) = source.notes
    assert note.startswith("5 of 8 captions in column 'text'")
    whole = open_source(config(root, holdout=0.0))
    assert [whole.captions(i) for i in range(8)] == [
        ("a rose",), (), (), (), ("a tulip",), (), (), ("a daisy",)
    ]  # fmt: skip


def test_other_processes_keep_silent(folder, caplog, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    root = folder(4, rows(4, text=lambda i: "a rose" if i else ""))
    with caplog.at_level(logging.WARNING):
        assert open_source(config(root, holdout=0.0)).notes
    assert caplog.records == []


def test_class_conditioning_is_captioned_by_the_class(folder):
    root = folder(6, rows(6, text=str, species=lambda i: ["rose", "tulip", None][i % 3]))
    source = open_source(config(root, holdout=0.0), needs="label")
    assert source.label_names == ("rose", "tulip")
    assert [source.captions(i) for i in range(3)] == [("rose",), ("tulip",), ()]
    assert [source[i].label for i in range(3)] == [0, 1, None]
    assert source[1].captions == ("tulip",)
    assert source.notes == (
        f"2 of 6 classes in column 'species' of {root} are missing: "
        "these images train unconditionally",
    )


def test_unconditional_training_needs_no_columns(folder):
    source = open_source(config(folder(4), holdout=0.0), needs="nothing")
    assert len(source) == 4
    assert source[2].captions == ()


def test_unconditional_training_ignores_captions(folder):
    root = folder(4, rows(4, text=lambda i: "a rose" if i else None))
    source = open_source(config(root, holdout=0.0), needs="nothing")
    assert source.captions(1) == () == source[1].captions
    assert source.notes == ()


def test_a_data_set_with_classes_offers_them_where_captions_are_missing(folder):
    root = folder(4, rows(4, species=str))
    with pytest.raises(UserError, match=r"conditioning\.kind=class uses 'species'"):
        open_source(config(root))


def test_numbered_classes_are_in_the_order_of_numbers(folder):
    root = folder(12, rows(12, label=lambda i: i))
    assert open_source(config(root), needs="label").label_names == tuple(map(str, range(12)))


@pytest.mark.parametrize("form", [json.dumps, str], ids=["JSON", "Python"])
def test_lists_that_are_written_as_text_are_several_captions(folder, form):
    lists = [["a rose", "it's red"], ["[sic] a tulip"], []]
    root = folder(3, rows(3, text=lambda i: form(lists[i])), csv=True)
    source = open_source(config(root, holdout=0.0))
    assert [source.captions(i) for i in range(3)] == [tuple(each) for each in lists]
    assert any("lists that are written as text" in note for note in source.notes)
    for other in ("a rose", "[V] rose", "[1, 2]"):  # of which one is no such list: all are text
        table = root / "metadata.csv"
        texts = (form(["a"]), "", other)
        pandas.DataFrame(rows(3, text=texts.__getitem__)).to_csv(table)
        source = open_source(config(root, holdout=0.0))
        assert [source.captions(i) for i in (0, 2)] == [(form(["a"]),), (other,)]


def test_a_class_that_is_a_number_here_and_text_there_is_one(folder):
    root = folder(3, rows(3, label=lambda i: (1, "1", "x")[i]))
    source = open_source(config(root, holdout=0.0), needs="label")
    assert source.label_names == ("1", "x")
    assert [source.captions(i) for i in range(3)] == [("1",), ("1",), ("x",)]


def test_a_split_with_one_of_the_classes_has_that_class(images):
    root = images("train/rose/0.png", "train/tulip/1.png", "val/rose/2.png")
    held = open_source(config(root), "validation", needs="label")
    assert [held.captions(i) for i in range(len(held))] == [("rose",)]
