"""Which folders and files are for training, by the names that data sets really have."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import config, encoded, picture

from ldm.core.encoding import decoded
from ldm.core.errors import UserError
from ldm.data.source import open_source
from ldm.data.tables.splits import layout, shards


@pytest.mark.parametrize(
    ("trained", "held"),
    [
        (["trainset"], ["testset"]),
        (["TrainImages"], ["TestImages"]),
        (["seg_train/seg_train/a"], ["seg_test/seg_test/b"]),
        (["images_train"], ["images_test"]),
        (["DIV2K_train_HR"], ["DIV2K_valid_HR"]),
        (["train"], ["test_a", "test_b"]),
        (["train"], ["tests"]),
        (["x/y/train"], ["x/y/test"]),
        (["images/roses", "images/tulips"], ["images/test"]),
        (["roses/good", "tulips/good"], ["roses/test", "tulips/test"]),
    ],
)
def test_what_is_held_out_by_its_folder_is_never_trained_on(trained, held):
    splits = layout([path.split("/") for path in (*trained, *held)], "here")
    assert all(splits.holds("train", path.split("/")) for path in trained)
    assert not any(splits.holds("train", path.split("/")) for path in held)
    assert splits.own("validation")
    assert all(splits.holds("validation", path.split("/")) for path in held)


@pytest.mark.parametrize(
    "classes", [["train", "bus"], ["latest", "tested"], ["model_train", "test_tube"], ["a/test"]]
)
def test_classes_whose_names_sound_alike_are_classes(classes):
    assert layout([path.split("/") for path in classes], "here").folders == ()


@pytest.mark.parametrize(
    ("trained", "held"),
    [
        ("Train-0", "Test-0"),
        ("Train/0", "Val/0"),
        ("trainset-0", "testset-0"),
        ("a_train-00000-of-00001", "a_test-00000-of-00001"),
    ],
)
def test_shards_are_held_out_by_their_folders_and_names(tmp_path, trained, held):
    for kind in ("tar", "parquet"):
        files = [f"/data/{name}.{kind}" for name in (trained, held)]
        assert shards(files) == {"train": files[:1], "validation": files[1:]}
        assert shards(["/data/flowers-000.tar", "/data/flowers-001.tar"]) == {}
    for name, count in ((trained, 3), (held, 2)):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        image = {"bytes": encoded(picture(0)), "path": None}
        rows = {"image": [image] * count, "text": [f"{name} {i}" for i in range(count)]}
        pq.write_table(pa.table(rows), path)
    for split, count in (("train", 3), ("validation", 2)):
        assert len(open_source(config(tmp_path), split)) == count


@pytest.mark.parametrize(
    ("table", "captions"),
    [
        ("file_name,text,\na.png,a rose, big and red\nb.png,y,\n", ["a rose, big and red", "y"]),
        ("file_name,text,,\na.png,a rose, big, red\nb.png,y,,\n", ["a rose, big, red", "y"]),
        ('text,file_name\n"a rose,a.png\ny",b.png\n', None),
        ('file_name,text\na.jfif,"a rose\nb.jfif,y"\n', None),
    ],
)
def test_no_caption_is_cut_at_a_comma_and_no_row_is_swallowed(tmp_path, table, captions):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(picture(0)))
    (tmp_path / "metadata.csv").write_text(table)
    if captions is None:
        with pytest.raises(UserError, match="a quote opens in this row"):
            open_source(config(tmp_path, holdout=0))
    else:
        source = open_source(config(tmp_path, holdout=0))
        assert [source.captions(i)[0] for i in range(len(source))] == captions


def test_escapes_of_iso_2022_are_no_text():
    with pytest.raises(UserError, match="line 2 is not UTF-8 but ISO 2022"):
        decoded("rose\n日本の薔薇".encode("iso2022_jp"), "a.txt")
