"""Parquet, webdataset, saved and Hub data sets, with random access and as streams."""

import pickle
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import config, encoded, picture
from torch.utils.data import DataLoader

from ldm.core.errors import UserError
from ldm.data.images import ImageDataset, image_loader
from ldm.data.order import micro_batches
from ldm.data.pictures.bad import BadImage
from ldm.data.pixels import normalise, to_pixels
from ldm.data.quarantine import checked
from ldm.data.source import open_source

STREAMING = pytest.mark.parametrize("streaming", [False, True], ids=["stored", "streamed"])


def whole(source, **options):
    return open_source(config(source, holdout=0.0, **options))


@STREAMING
def test_parquet_gives_its_images_and_captions(parquet, streaming):
    path = parquet(10, text=[f"number {i}" for i in range(10)])
    source = whole(path, streaming=streaming)
    assert len(source) == 10
    assert source.sequential == streaming
    for i in range(10):
        assert source.image(i).tobytes() == picture(i).tobytes()
        assert source.captions(i) == (f"number {i}",)


@STREAMING
def test_a_glob_of_parquet_files_is_read_in_the_order_of_their_names(parquet, streaming, tmp_path):
    for part in range(3):
        parquet(2, f"part-{part}.parquet", text=[f"{part}.{i}" for i in range(2)])
    source = whole(tmp_path / "part-*.parquet", streaming=streaming)
    captions = [source.captions(i)[0] for i in range(6)]
    assert captions == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]


@STREAMING
def test_a_folder_of_parquet_files_has_splits_by_name(parquet, streaming, tmp_path):
    parquet(6, "set/data/train-00000-of-00001.parquet", text=[f"t{i}" for i in range(6)])
    parquet(2, "set/data/test-00000-of-00001.parquet", text=[f"v{i}" for i in range(2)])
    options = config(tmp_path / "set", streaming=streaming)
    train, held = open_source(options), open_source(options, "validation")
    assert [train.captions(i)[0] for i in range(6)] == [f"t{i}" for i in range(6)]
    assert [held.captions(i)[0] for i in range(2)] == ["v0", "v1"]


@STREAMING
def test_lists_of_captions_and_missing_ones_are_read(parquet, streaming):
    path = parquet(4, captions=[["a", "b"], [], None, ["", "c"]])
    source = whole(path, streaming=streaming)
    assert [source.captions(i) for i in range(4)] == [("a", "b"), (), (), ("c",)]
    assert source.notes[0].startswith("2 of 4 captions in column 'captions'")


@STREAMING
def test_webdataset_shards_give_images_captions_and_classes(webdataset, streaming):
    source = whole(webdataset(12), streaming=streaming)
    assert len(source) == 12
    assert source.image(11).tobytes() == picture(11).tobytes()
    assert source.captions(11) == ("number 11",)
    assert (source.name(11), source.label(11), source.label_names) == ("0011", 2, ("0", "1", "2"))


def test_a_field_of_json_can_be_named(webdataset):
    with pytest.raises(UserError, match=r"no column 'x' .* json\.caption, json\.width, cls"):
        whole(glob := webdataset(3), caption="x")
    assert whole(glob, caption="json.caption").captions(1) == ("number 1",)


@STREAMING
def test_webdataset_without_captions_trains_on_its_classes(webdataset, streaming):
    options = config(webdataset(6, caption=False), holdout=0.0, streaming=streaming)
    source = open_source(options, needs="label")
    assert [source.captions(i) for i in range(4)] == [("0",), ("1",), ("2",), ("0",)]


def saved(tmp_path, count=6):
    features = datasets.Features(
        photo=datasets.Image(), species=datasets.ClassLabel(names=["rose", "tulip"])
    )
    rows = {
        "photo": [{"bytes": encoded(picture(i)), "path": None} for i in range(count)],
        "species": [i % 2 if i else -1 for i in range(count)],
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    data.save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_saved_data_set_keeps_its_class_names(tmp_path):
    options = config(saved(tmp_path), holdout=0.0)
    source = open_source(options, needs="label")
    assert source.label_names == ("rose", "tulip")
    assert [source.label(i) for i in range(3)] == [None, 1, 0]
    assert source.captions(1) == ("tulip",)
    assert source.image(5).tobytes() == picture(5).tobytes()
    assert source.notes[0].startswith("1 of 6 classes")
    with pytest.raises(UserError, match=r"conditioning\.kind=class uses 'species'"):
        open_source(options)


def test_saved_splits_are_found(tmp_path):
    data = datasets.load_from_disk(str(saved(tmp_path)))
    both = datasets.DatasetDict(train=data, validation=data.select([4]))
    both.save_to_disk(str(tmp_path / "both"))
    held = open_source(config(tmp_path / "both"), "validation", needs="label")
    assert len(held) == 1
    assert held.image(0).tobytes() == picture(4).tobytes()


def test_several_splits_without_a_training_one_are_listed(tmp_path):
    data = datasets.load_from_disk(str(saved(tmp_path)))
    datasets.DatasetDict(a=data, b=data).save_to_disk(str(tmp_path / "ab"))
    with pytest.raises(UserError, match="no split 'train'; its splits are a, b"):
        open_source(config(tmp_path / "ab"))


@STREAMING
@pytest.mark.parametrize("name", ["train", "test", "validation", "a"])
def test_a_lone_split_of_any_name_is_held_out_of(name, streaming, tmp_path):
    rows = {"image": [encoded(picture(i)) for i in range(20)], "text": ["x"] * 20}
    rows["file_name"] = [f"{i}.png" for i in range(20)]
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "set" / f"{name}-00000-of-00001.parquet")
    options = config(tmp_path / "set", holdout=0.2, streaming=streaming)
    parts = {split: open_source(options, split) for split in ("train", "validation")}
    names = {k: {source.name(i) for i in range(len(source))} for k, source in parts.items()}
    assert len(names["train"]) == 16 and len(names["validation"]) == 4
    assert not names["train"] & names["validation"]


def test_a_home_folder_may_be_written_as_a_tilde(parquet, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = Path(parquet(3, text=["x"] * 3)).parent.relative_to(tmp_path)
    for where in (f"~/{folder}", f"~/{folder}/*.parquet"):
        assert len(open_source(config(where, holdout=0.0))) == 3


@STREAMING
def test_bytes_without_a_type_are_found_by_the_columns_name(tmp_path, streaming):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"jpg": [encoded(picture(3))], "text": ["a"]}), path)
    source = whole(path, streaming=streaming)
    assert source.image(0).tobytes() == picture(3).tobytes()


def test_an_image_column_can_be_named(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"data": [encoded(picture(3))], "text": ["a"]}), path)
    with pytest.raises(UserError, match=r"no image column .* are data, text\. .*data\.image="):
        whole(path)
    assert whole(path, image="data").image(0).tobytes() == picture(3).tobytes()
    with pytest.raises(UserError, match=r"no column 'pic' \(data\.image\)"):
        whole(path, image="pic")


@STREAMING
def test_rows_without_an_image_are_bad(tmp_path, streaming):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [encoded(picture(3)), None, b""], "text": ["a"] * 3}), path)
    source = whole(path, streaming=streaming)
    for i in (1, 2):
        with pytest.raises(BadImage, match=f"row {i}: there is no image"):
            source.image(i)


@STREAMING
def test_bad_rows_are_left_out_by_the_check(parquet, streaming, tmp_path):
    path = parquet(200, broken=[70], text=[str(i) for i in range(200)])
    source = checked(whole(path, streaming=streaming), tmp_path / "cache")
    assert len(source) == 199
    assert source.captions(70) == ("71",)
    assert source.image(70).tobytes() == picture(71).tobytes()
    assert '"row 70"' in (tmp_path / "cache" / "quarantine.jsonl").read_text()


@STREAMING
def test_fingerprints_follow_the_files(parquet, streaming, tmp_path):
    def prints(path):
        source = whole(path, streaming=streaming)
        return source.image_fingerprint, source.fingerprint

    first = prints(parquet(4, "a.parquet", text=["x"] * 4))
    assert prints(tmp_path / "a.parquet") == first
    other = prints(parquet(5, "a.parquet", text=["x"] * 5))
    assert not set(first) & set(other)


def test_a_streams_fingerprint_is_that_of_its_images_bytes(parquet):
    a = whole(parquet(4, "a.parquet", text=["x"] * 4), streaming=True)
    b = whole(parquet(4, "b.parquet", text=["y"] * 4), streaming=True)
    assert a.image_fingerprint == b.image_fingerprint
    assert a.fingerprint != b.fingerprint


def test_a_stream_goes_back_and_forth(parquet):
    source = whole(parquet(30, text=[str(i) for i in range(30)]), streaming=True)
    for i in (3, 4, 9, 29, 2, 0, 0, 28):
        assert source.image(i).tobytes() == picture(i).tobytes()


def test_a_stream_reads_each_row_once_when_it_goes_forwards(parquet, monkeypatch):
    source = whole(parquet(30, text=[str(i) for i in range(30)]), streaming=True)
    skips, skip = [], datasets.IterableDataset.skip

    def counted(self, n):
        skips.append(n)
        return skip(self, n)

    monkeypatch.setattr(datasets.IterableDataset, "skip", counted)
    for i in range(0, 30, 3):
        source.image(i)
    assert skips == [0]
    source.image(5)
    assert skips == [0, 5]


def test_a_stream_takes_its_first_rows_where_a_size_is_given(parquet):
    path = parquet(30, text=[str(i) for i in range(30)])
    source = whole(path, streaming=True, size=7)
    assert [source.captions(i)[0] for i in range(len(source))] == list("0123456")


def test_a_part_of_a_stream_is_held_out(parquet):
    options = config(parquet(20, text=[str(i) for i in range(20)]), streaming=True, holdout=0.2)
    train, held = open_source(options), open_source(options, "validation")
    found = [s.captions(i)[0] for s in (train, held) for i in range(len(s))]
    assert (len(train), len(held)) == (16, 4)
    assert sorted(map(int, found)) == list(range(20))
    assert train.sequential and held.sequential
    for source in (train, held):
        for i in range(len(source)):
            assert source.image(i).tobytes() == picture(int(source.captions(i)[0])).tobytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_trains_in_order_and_restarts_at_any_step(webdataset, workers):
    options = config(webdataset(12), streaming=True, holdout=0.0, resolution=8, flip=False)
    source = open_source(options)
    source.image(3)  # an open reader must not be shared with the workers

    def read(start):
        slots = micro_batches(0, 12, 4, start=start, stop=7, shuffle=not source.sequential)
        return list(image_loader(ImageDataset(source, options, 0), slots, workers))

    batches = read(0)
    for i, pixels in enumerate(torch.cat([batch.pixels for batch in batches])):
        assert torch.equal(pixels, normalise(to_pixels(picture(i % 12), 8)))
    for batch, again in zip(batches[4:], read(4), strict=True):
        assert torch.equal(batch.pixels, again.pixels)


@STREAMING
def test_tables_travel_to_worker_processes(parquet, streaming):
    source = whole(parquet(6, text=["x"] * 6), streaming=streaming)
    source.image(2)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.image(4).tobytes() == picture(4).tobytes()
    assert copy.fingerprint == source.fingerprint
    loader = DataLoader(source, num_workers=2, batch_size=None, sampler=range(6))
    assert [e.image.tobytes() for e in loader] == [picture(i).tobytes() for i in range(6)]


@pytest.mark.parametrize("name", ["nobody/nothing-1.5", "nothing"])
def test_an_unknown_hub_name_is_a_sentence(name, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError) as error:
        open_source(config(name))
    assert str(error.value).startswith(
        f"data.source={name} is not here, and cannot be loaded as a data set on the Hub"
    )
    assert "\n" not in str(error.value)


@STREAMING
@pytest.mark.parametrize("named", ["column", "image"])
def test_a_photo_that_several_rows_hold_is_whole_on_one_side(parquet, tmp_path, streaming, named):
    names = [f"{i // 5}.png" for i in range(100)]
    path = parquet(100, text=[str(i) for i in range(100)], file_name=names)
    if named == "image":
        images = [{"bytes": encoded(picture(0)), "path": name} for name in names]
        table = {"image": images, "text": [f"{name} {i}" for i, name in enumerate(names)]}
        pq.write_table(pa.table(table), path)
    for seed in range(3):
        options = config(path, holdout=0.13, streaming=streaming)
        parts = [open_source(options, split, seed) for split in ("train", "validation")]
        photos = [Counter(part.photo(i) for i in range(len(part))) for part in parts]
        assert not set(photos[0]) & set(photos[1])
        assert (photos[1].total(), set(photos[1].values())) == (15, {5})


@STREAMING
def test_rows_that_name_one_file_are_one_image_that_lies_beside_the_table(tmp_path, streaming):
    (tmp_path / "set" / "img").mkdir(parents=True)
    for i in range(4):
        picture(i).save(tmp_path / "set" / "img" / f"{i}.png")
    spelt = ("img/{}.png", "img\\{}.png", "./img/{}.png", "../set/img/{}.png")
    rows = [(form.format(i), f"{i}: {form}") for i in range(4) for form in spelt]
    table = {"image": [name for name, _ in rows], "text": [text for _, text in rows]}
    path = tmp_path / "set" / "rows.parquet"
    pq.write_table(pa.table(table), path)
    source = whole(path, streaming=streaming)
    assert [source.captions(i) for i in range(4)] == [
        tuple(f"{i}: {form}" for form in spelt) for i in range(4)
    ]
    assert [source.image(i).tobytes() for i in range(4)] == [picture(i).tobytes() for i in range(4)]
    assert source.notes[0].startswith("16 rows in ")


@STREAMING
def test_brackets_in_a_path_are_a_pattern_only_where_there_is_no_such_file(parquet, streaming):
    path = parquet(3, "a [1] *?/set[2].parquet", text=["x"] * 3)
    assert len(whole(path, streaming=streaming)) == 3
    assert len(whole(path.parent, streaming=streaming)) == 3
    assert len(whole(f"{path.parent}/s?t*.parquet", streaming=streaming)) == 3


def test_text_that_is_no_utf_8_is_a_sentence(tmp_path):
    texts = pa.array([b"a rose", b"caf\xe9"], pa.binary()).view(pa.string())
    images = [encoded(picture(i)) for i in range(2)]
    pq.write_table(pa.table({"image": images, "text": texts}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"column 'text' of .*x\.parquet is not UTF-8"):
        whole(tmp_path / "x.parquet")


@STREAMING
def test_a_broken_table_is_a_sentence(tmp_path, streaming):
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"x\.parquet cannot be loaded as a parquet data set: "):
        open_source(config(tmp_path / "x.parquet", streaming=streaming))
