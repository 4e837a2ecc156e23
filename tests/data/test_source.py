import json
import pickle
from hashlib import blake2b

import numpy as np
import pytest
from pictures import config, picture, rows

from ldm.core.errors import UserError
from ldm.data import example
from ldm.data.captions import Packed
from ldm.data.drawn import VALIDATION_START
from ldm.data.example import Subset, digest
from ldm.data.source import open_source, open_sources


def names(source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def test_the_drawn_set_is_the_default_and_has_20000_flowers():
    source = open_source(config("drawn"))
    assert len(source) == 20_000
    assert source.captions(0)[0] == "a red flower"
    assert source.trusted


def test_the_drawn_validation_set_is_other_flowers():
    train = open_source(config("drawn", size=200))
    held = open_source(config("drawn", size=200), "validation")
    assert (len(train), len(held)) == (200, 10)
    assert held.start == VALIDATION_START
    assert not set(names(train)) & set(names(held))


def test_drawn_flowers_are_judged_by_photos_where_those_are_asked_for(folder):
    held = open_source(config("drawn", validation=str(folder(3, rows(3, text=str)))), "validation")
    assert len(held) == 3 and not held.trusted
    with pytest.raises(UserError, match="nowhere"):
        open_source(config("drawn", validation="nowhere/at/all"), "validation")


def test_drawn_flowers_have_the_configured_resolution():
    assert open_source(config("drawn", resolution=48))[0].image.size == (48, 48)


def test_the_held_out_part_is_disjoint_complete_and_keyed_by_the_seed(folder):
    root = folder(40, rows(40, text=str))
    train = open_source(config(root, holdout=0.1), "train", 3)
    held = open_source(config(root, holdout=0.1), "validation", 3)
    assert (len(train), len(held)) == (36, 4)
    assert sorted(names(train) + names(held)) == [f"a/{i:03d}.png" for i in range(40)]
    assert names(held) == names(open_source(config(root, holdout=0.1), "validation", 3))
    assert names(held) != names(open_source(config(root, holdout=0.1), "validation", 4))
    for source in (train, held):
        for i in range(len(source)):
            assert source.captions(i) == (str(int(source.name(i)[2:5])),) == source[i].captions


@pytest.mark.parametrize("options", [{"holdout": 0.1}, {"size": 20}, {"validation": "drawn"}])
def test_both_splits_are_those_that_are_opened_alone_and_share_their_rows(folder, options):
    options = config(folder(40, rows(40, text=str)), **options)
    both = open_sources(options, 3)
    alone = {split: open_source(options, split, 3) for split in both}
    assert {k: s.fingerprint for k, s in both.items()} == {
        k: s.fingerprint for k, s in alone.items()
    }
    if options.validation is None:
        assert both["train"].source is both["validation"].source


def test_a_fingerprint_of_many_rows_is_that_of_the_same_lists(monkeypatch):
    monkeypatch.setattr(example, "BLOCK", 3)
    for count in (0, 1, 3, 7):
        captions = [("a 'rose'\n", "ä")[: i % 3] for i in range(count)]
        assert list(packed := Packed(captions)) == captions
        lists, rows = (captions, list(range(count)), None), np.arange(count)
        expected = blake2b(repr(lists).encode(), digest_size=16).hexdigest()
        assert digest(packed, rows, None) == digest(*lists) == expected


def test_an_image_that_joins_leaves_nearly_all_others_in_their_part(folder):
    root = folder(60, rows(60, text=str))
    before = set(names(open_source(config(root, holdout=0.2), "validation")))
    picture(99).save(root / "a" / "zzz.png")
    with (root / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "a/zzz.png", "text": "new"}) + "\n")
    after = set(names(open_source(config(root, holdout=0.2), "validation")))
    assert len(before ^ after) <= 2


def test_small_sets_hold_out_one_image(folder):
    root = folder(3, rows(3, text=str))
    assert len(open_source(config(root), "validation")) == 1
    assert len(open_source(config(root), "train")) == 2


def test_a_single_image_cannot_be_split(folder):
    root = folder(1, rows(1, text=str))
    with pytest.raises(UserError, match=r"single image"):
        open_source(config(root))
    assert len(open_source(config(root, holdout=0.0))) == 1


def test_without_holdout_everything_is_trained_on(folder):
    root = folder(5, rows(5, text=str))
    assert len(open_source(config(root, holdout=0.0), "train")) == 5
    assert len(open_source(config(root, holdout=0.0), "validation")) == 0


@pytest.mark.parametrize("name", ["validation", "val", "test"])
def test_split_folders_are_found(folder, name):
    folder(6, rows(6, text=str), "flowers/train")
    root = folder(2, rows(2, text=lambda i: f"held {i}"), f"flowers/{name}").parent
    assert len(open_source(config(root))) == 6
    held = open_source(config(root), "validation")
    assert [held.captions(i) for i in range(2)] == [("held 0",), ("held 1",)]


def test_another_folder_of_images_makes_no_training_data_of_the_validation_set(folder):
    folder(6, rows(6, text=str), "flowers/train")
    folder(4, where="flowers/masks")
    root = folder(2, rows(2, text=lambda i: f"held {i}"), "flowers/validation").parent
    assert len(open_source(config(root))) == 6
    assert open_source(config(root), "validation").captions(1) == ("held 1",)


def test_a_split_folder_alone_is_held_out_of(folder):
    root = folder(10, rows(10, text=str), "flowers/train").parent
    assert len(open_source(config(root, holdout=0.2))) == 8
    assert len(open_source(config(root, holdout=0.2), "validation")) == 2


def test_one_table_at_the_top_may_speak_of_every_split(folder):
    folder(3, where="flowers/train")
    root = folder(2, where="flowers/test").parent
    every = [
        {"file_name": f"{split}/a/{i:03d}.png", "text": f"{split} {i}"}
        for split, count in (("train", 3), ("test", 2))
        for i in range(count)
    ]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, every)))
    assert names(open_source(config(root))) == [f"a/{i:03d}.png" for i in range(3)]
    assert open_source(config(root), "validation")[1].captions == ("test 1",)


def test_a_class_may_be_called_train(tmp_path):
    for name in ("car", "plane", "train"):
        (tmp_path / "v" / name).mkdir(parents=True)
        picture(0).save(tmp_path / "v" / name / "0.png")
    source = open_source(config(tmp_path / "v", holdout=0.0), needs="label")
    assert source.label_names == ("car", "plane", "train")
    assert len(source) == 3


def test_a_validation_source_of_its_own_is_used_whole(folder):
    train = folder(6, rows(6, text=str), "one")
    held = folder(3, rows(3, text=lambda i: f"other {i}"), "two")
    options = config(train, validation=str(held))
    assert len(open_source(options)) == 6
    assert open_source(options, "validation").captions(2) == ("other 2",)


def test_size_takes_that_many_images_from_all_over(folder):
    root = folder(40, rows(40, text=str))
    options = config(root, size=20, holdout=0.1)
    train, held = open_source(options), open_source(options, "validation")
    assert (len(train), len(held)) == (18, 2)
    used = sorted(names(train) + names(held))
    assert len(set(used)) == 20
    assert used[-1] > "a/030"
    assert train.fingerprint != open_source(config(root)).fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout": 1.0}, "data.holdout=1.0"),
        ({"holdout": -0.1}, "data.holdout=-0.1"),
        ({"size": 0}, "data.size=0"),
    ],
)
def test_impossible_numbers_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        open_source(config("drawn", **options))


@pytest.mark.parametrize(
    "where", ["./nowhere", "/no/such/place", "x/*.parquet", "gone.tar", "a/b/c"]
)
def test_a_path_that_is_not_there_is_named_without_asking_the_hub(where, monkeypatch):
    import ldm.data.arrow

    monkeypatch.setattr(ldm.data.arrow, "load_splits", None)
    with pytest.raises(UserError, match=r"does not exist; it can be 'drawn', a folder"):
        open_source(config(where))


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.docx").write_text("x")
    with pytest.raises(UserError, match=r"is a file that cannot be read; it can be a folder"):
        open_source(config(tmp_path / "x.docx"))


def test_streaming_a_folder_or_the_drawn_set_is_refused(folder):
    with pytest.raises(UserError, match=r"data\.streaming=true reads parquet"):
        open_source(config(folder(2), streaming=True))
    with pytest.raises(UserError, match=r"data\.streaming=true reads parquet"):
        open_source(config("drawn", streaming=True))


def test_sources_travel_to_worker_processes(folder):
    root = folder(6, rows(6, text=str))
    for source in (open_source(config(root)), open_source(config("drawn"), needs="label")):
        copy = pickle.loads(pickle.dumps(source))
        assert copy[1].image.tobytes() == source[1].image.tobytes()
        assert copy.fingerprint == source.fingerprint


def test_a_subset_is_seen_through_its_indices():
    source = open_source(config("drawn", size=10))
    part = Subset(source, [4, 2])
    assert names(part) == ["flower-000004", "flower-000002"]
    assert part[1].captions == source.captions(2)
    assert part.label(0) == source.label(4)
    assert part.fingerprint != Subset(source, [2, 4]).fingerprint
    assert (part.trusted, part.label_names) == (True, source.label_names)
