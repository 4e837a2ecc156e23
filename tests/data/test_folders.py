"""Names and folders as people have them: links, splits, spellings, several rows an image."""

import json
import os
import shutil
from unicodedata import normalize

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import config, picture

from ldm.core.errors import UserError
from ldm.data.source import open_source


def named(root, split="train", needs="nothing", **options) -> list[str]:
    source = open_source(config(root, **options), split, needs=needs)
    return [source.name(i) for i in range(len(source))]


def captioned(root, **options):
    source = open_source(config(root, holdout=0.0, **options))
    return {source.name(i): source.captions(i) for i in range(len(source))}, source.notes


def described(root, entries, name="metadata.jsonl"):
    lines = [json.dumps({"file_name": file, "text": text}) for file, text in entries]
    (root / name).write_text("\n".join(lines), "utf-8")


# links


def test_linked_class_folders_are_followed(images, tmp_path):
    root = images("daisy/0.png")
    shutil.move(images("elsewhere/1.png") / "elsewhere", tmp_path / "pool")
    (root / "rose").symlink_to(tmp_path / "pool", target_is_directory=True)
    source = open_source(config(root, holdout=0.0), needs="label")
    assert [(source.name(i), source.captions(i)) for i in range(2)] == [
        ("daisy/0.png", ("daisy",)),
        ("rose/1.png", ("rose",)),
    ]


def test_circles_of_links_end_and_are_told(images):
    root = images("a/0.png", "b/1.png")
    for at in ("a/up", "b/up", "b/again"):
        (root / at).symlink_to(root)
    (root / "a" / "other").symlink_to(root / "b")
    (root / "b" / "other").symlink_to(root / "a")
    (root / "self").symlink_to(root / "self")
    (root / "gone.png").symlink_to(root / "nowhere.png")
    source = open_source(config(root, holdout=0.0), needs="nothing")
    assert [source.name(i) for i in range(len(source))] == ["a/0.png", "b/1.png"]
    assert any("linked folders" in note and note.endswith(": 5") for note in source.notes)
    assert any("links to nothing" in note and note.endswith(": 1") for note in source.notes)


def test_a_name_that_leads_through_a_link_is_the_image_that_it_leads_to(images):
    root = images("daisy/0.png", "test/1.png")
    (root / "other").symlink_to(root / "test")
    described(root, [("daisy/0.png", "a"), ("other/1.png", "b"), ("test/1.png", "c")])
    assert named(root, needs="caption") == ["daisy/0.png"]
    held = open_source(config(root), "validation")
    assert (len(held), held.captions(0)) == (1, ("b", "c"))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_to_one_file_are_one_image_with_all_captions(images, link):
    root = images("7.png", "8.png")
    link(root / "7.png", root / "l7.png")
    (root / "7.txt").write_text("a rose")
    (root / "l7.txt").write_text("a flower")
    found, notes = captioned(root)
    assert found == {"7.png": ("a rose", "a flower"), "8.png": ()}
    assert any(note.startswith("3 rows in") and "are of 2 images" in note for note in notes)


def test_an_image_that_is_linked_into_two_classes_is_in_both_and_on_one_side(images):
    root = images(*(f"rose/{i}.png" for i in range(8)))
    (root / "red").mkdir()
    for i in range(8):
        (root / "red" / f"{i}.png").symlink_to(root / "rose" / f"{i}.png")
    for seed in range(4):
        held = open_source(config(root, holdout=0.25), "validation", seed, needs="label")
        photos = sorted((held.name(i), held.captions(i)) for i in range(len(held)))
        assert [name[-5:] for name, _ in photos[:2]] == [name[-5:] for name, _ in photos[2:]]
        assert [label for _, label in photos] == [("red",)] * 2 + [("rose",)] * 2


def test_names_that_lead_out_of_the_folder_and_in_again_are_of_one_image(images, tmp_path):
    root = images("s18/a.png", "s18/b.png") / "s18"
    (tmp_path / "link").symlink_to(root)
    names = ["a.png", "../s18/a.png", str(tmp_path / "link" / "a.png"), "b.png"]
    described(root, [(name, str(i)) for i, name in enumerate(names)])
    found, notes = captioned(root)
    assert found == {"a.png": ("0", "1", "2"), "b.png": ("3",)}
    assert len(notes) == 1


def test_links_between_the_two_sides_are_told(images):
    root = images("train/0.png", "train/1.png", "val/2.png")
    (root / "val" / "x.png").symlink_to("../train/1.png")
    source = open_source(config(root), needs="nothing")
    assert any(
        "held out" in note and note.endswith("1, first train/1.png") for note in source.notes
    )


def test_a_folder_is_called_as_the_link_to_it_that_says_a_split_or_a_class(images):
    root = images("train/0.png", "store/1.png")
    (root / "test").symlink_to("store")
    (root / "a copy").symlink_to("store")
    described(root, [("train/0.png", "a"), ("store/1.png", "b"), ("a copy/1.png", "c")])
    assert named(root) == ["0.png"]
    held = open_source(config(root), "validation")
    assert (len(held), held.captions(0)) == (1, ("b", "c"))
    assert any("as links call them: store as test" in note for note in held.notes)


def test_classes_are_called_as_links_to_the_folders_of_a_store_call_them(images):
    root = images("all/001/0.png", "all/002/1.png")
    (root / "rose").symlink_to("all/001")
    (root / "daisy").symlink_to("all/002")
    (root / "all" / "test").symlink_to(root)  # a circle names nothing
    source = open_source(config(root, holdout=0.0), needs="label")
    assert [source.name(i) for i in range(2)] == ["daisy/1.png", "rose/0.png"]
    assert source.label_names == ("daisy", "rose")


# splits


@pytest.mark.parametrize(
    ("train", "held"),
    [
        ("Train", "Test"),
        ("TRAIN", "VALID"),
        ("training", "Testing"),
        ("train", "dev"),
        ("train2017", "val2017"),
        ("Train_Images", "test-images"),
        ("images/train", "images/val"),
        ("daisy/train", "daisy/test"),
    ],
)
def test_folders_of_such_names_are_splits(images, train, held):
    root = images(f"{train}/0.png", f"{train}/x/1.png", f"{held}/2.png", f"{held}/x/3.png")
    prefix = "" if "/" not in train else f"{train}/"
    assert named(root) == [f"{prefix}0.png", f"{prefix}x/1.png"]
    prefix = "" if "/" not in held else f"{held}/"
    assert named(root, "validation") == [f"{prefix}2.png", f"{prefix}x/3.png"]


def test_what_is_held_out_is_no_class_where_nothing_is_called_train(images):
    root = images("daisy/0.png", "rose/1.png", "Test/daisy/2.png", "Test/rose/3.png")
    source = open_source(config(root), needs="label")
    assert source.label_names == ("daisy", "rose")
    assert [source.name(i) for i in range(len(source))] == ["daisy/0.png", "rose/1.png"]
    held = open_source(config(root), "validation", needs="label")
    assert [held.captions(i) for i in range(len(held))] == [("daisy",), ("rose",)]


def test_test_images_are_not_trained_on_where_there_is_also_a_validation_split(images):
    root = images("Train/0.png", "Val/1.png", "Test/2.png", "masks/3.png")
    assert (named(root), named(root, "validation")) == (["0.png"], ["1.png"])
    notes = open_source(config(root), needs="nothing").notes
    assert "1 of 4 images" in notes[0] and "lie beside its splits Test, Train, Val" in notes[0]


def test_classes_within_a_split_within_a_folder_are_classes(images):
    root = images(*(f"set/{s}/{c}/{c}.png" for s in ("train", "test") for c in ("a", "b")))
    root = root / "set"
    source = open_source(config(root), needs="label")
    assert source.label_names == ("a", "b") and len(source) == 2


def test_a_folder_of_test_images_alone_is_not_trained_on(images):
    root = images("Test/0.png", "val/1.png")
    with pytest.raises(UserError, match=r"images in Test, val and none to train on; data\.source="):
        open_source(config(root), needs="nothing")
    assert named(root / "Test", holdout=0.0) == ["0.png"]


def test_a_table_cannot_lead_from_one_split_into_another(images):
    root = images("train/0.png", "test/1.png", "test/2.png")
    described(root / "train", [("0.png", "x"), ("../test/1.png", "y"), ("2.png", "z")])
    assert named(root, needs="caption") == ["0.png", "2.png"]  # the last is a file that is missing
    with pytest.raises(Exception, match="no such file"):
        open_source(config(root))[1]


# several rows an image


FIVE = [f"caption {i}" for i in range(5)]


def flickr(root, kind, names):
    """A table of five rows an image, each spelling the name in its own way."""
    spelt = [
        *(lambda n: n, "./{}".format, lambda n: n.replace("/", "\\"), lambda n: f"x/../{n}"),
        lambda n: normalize("NFD", n),
    ]
    table = [(spelt[k](name), text) for name in names for k, text in enumerate(FIVE)]
    if kind == "jsonl":
        described(root, table)
    elif kind == "parquet":
        columns = {"file_name": [n for n, _ in table], "text": [t for _, t in table]}
        pq.write_table(pa.table(columns), root / "metadata.parquet")
    else:
        end = {"csv": ",", "tsv": "\t"}[kind]
        lines = [end.join(row) for row in [("file_name", "text"), *table]]
        (root / f"metadata.{kind}").write_text("\n".join(lines), "utf-8")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_rows_of_one_file_are_one_image_with_all_captions(images, kind):
    names = [f"a/é{i}.png" for i in range(8)]
    root = images(*names)
    flickr(root, kind, names)
    found, notes = captioned(root)
    assert found == dict.fromkeys(names, tuple(FIVE))
    assert notes[0].startswith("40 rows in ") and "of 8 images" in notes[0]
    parts = [set(named(root, split, holdout=0.25)) for split in ("train", "validation")]
    assert [len(part) for part in parts] == [6, 2] and not parts[0] & parts[1]


def test_equal_rows_are_one_and_lists_of_captions_are_joined(images):
    root = images("0.png", "1.png")
    entries = [("0.png", "a"), ("0.png", "a"), ("1.png", ["b", "c"]), ("1.png", "d")]
    described(root, entries)
    assert captioned(root)[0] == {"0.png": ("a",), "1.png": ("b", "c", "d")}


def test_two_tables_of_the_same_images_are_read_together(images):
    root = images("0.png")
    described(root, [("0.png", "a")])
    (root / "metadata.csv").write_text("file_name,text\n0.png,b\n")
    assert set(captioned(root)[0]["0.png"]) == {"a", "b"}


def test_flickr8k_as_it_is_downloaded_is_read(images):
    root = images("Images/1.jpg", "Images/2.jpg")
    lines = "".join(f"{n}.jpg,A child , in {i} .\n" for n in (1, 2) for i in range(5))
    (root / "captions.txt").write_text(f"image,caption\n{lines}")
    found, _ = captioned(root)
    assert found == {f"Images/{n}.jpg": tuple(f"A child , in {i} ." for i in range(5))
                     for n in (1, 2)}  # fmt: skip
    (root / "captions.txt").unlink()
    (root / "Flickr8k.token.txt").write_text("1.jpg#0\tA child .\n2.jpg#0\tTwo .\n")
    (root / "Flickr8k.lemma.token.txt").write_text("1.jpg#0\tchild\n")
    assert captioned(root)[0] == {"Images/1.jpg": ("A child .",), "Images/2.jpg": ("Two .",)}


# spellings


def test_names_are_found_as_other_systems_write_them(images, tmp_path):
    root = images("img/café.png", "img/ROSE.JPG", "img/a[1]*?.png", "img/sp ace.png")
    outside = tmp_path / "outside.png"
    picture(9).save(outside)
    described(
        root,
        [
            ("img\\" + normalize("NFD", "café.png"), "a"),
            ("img/rose.jpg", "b"),
            ("img/a[1]*?.png", "c"),
            (" img/sp ace.png\n", "d"),
            ("../outside.png", "e"),
            (str(root / "img" / "missing.png"), "f"),
        ],
    )
    found, _ = captioned(root)
    assert list(found.values()) == [("a",), ("b",), ("c",), ("d",), ("e",), ("f",)]
    source = open_source(config(root, holdout=0.0))
    assert [source.image(i).tobytes() for i in (0, 2, 4)] == [
        picture(i).tobytes() for i in (0, 2, 9)
    ]
    with pytest.raises(Exception, match=r"img/missing\.png: there is no such file"):
        source.image(5)


def test_a_name_that_could_be_two_files_is_neither(images):
    root = images("a/x.png", "b/x.png", "c/R.png", "c/r.PNG")
    described(root, [("x.png", "1"), ("C/r.png", "2")])
    source = open_source(config(root, holdout=0.0))
    for i in range(2):
        with pytest.raises(Exception, match="no such file"):
            source.image(i)


@pytest.mark.parametrize(
    "name", ["a\x00b.png", "\ud83c.png", "x" * 5000, "/", "..", "a/", "C:\\a.png"]
)
def test_names_that_no_file_can_have_are_missing_files(images, name):
    root = images("0.png")
    described(root, [("0.png", "a"), (name, "b")])
    source = open_source(config(root, holdout=0.0))
    json.dumps([source.name(i) for i in range(2)], ensure_ascii=False).encode()
    with pytest.raises(Exception, match=r"no such file|cannot be decoded|not a file|is a"):
        source.image(1)


def test_names_that_are_not_utf_8_are_read_and_told_as_text(tmp_path):
    root = os.fsencode(tmp_path / "v")
    for folder in (b"ros\xe9", b"daisy"):
        os.makedirs(os.path.join(root, folder))
        with open(os.path.join(root, folder, b"caf\xe9.png"), "wb") as file:
            picture(0).save(file, "PNG")
    source = open_source(config(tmp_path / "v", holdout=0.0), needs="label")
    assert [source.name(i) for i in range(2)] == [
        "daisy/caf\\udce9.png",
        "ros\\udce9/caf\\udce9.png",
    ]
    assert source.label_names == ("daisy", "ros\\udce9")
    assert source.image(1).tobytes() == picture(0).tobytes()


def test_brackets_in_the_path_of_a_folder_are_no_pattern(tmp_path, images):
    root = images("0.png", "1.png")
    described(root, [("0.png", "a"), ("1.png", "b")])
    moved = tmp_path / "set [2024] *v?" / "x"
    shutil.copytree(root, moved)
    assert captioned(moved)[0] == {"0.png": ("a",), "1.png": ("b",)}


# what is not read


def test_pictures_that_cannot_be_read_are_counted_by_kind(images):
    root = images("0.png")
    for name in ("a.HEIC", "b.heic", "c.mp4", "d.svg", "notes.md", ".hidden.heic"):
        (root / name).write_bytes(b"x")
    (note,) = open_source(config(root, holdout=0.0), needs="nothing").notes
    assert note == f"2 .heic, 1 .mp4, 1 .svg in {root} cannot be read and are left out"
    (root / "0.png").unlink()
    with pytest.raises(UserError, match=r"holds no images; 2 \.heic, 1 \.mp4"):
        open_source(config(root), needs="nothing")
