"""Data sets by Hub name, in a process of its own: the client reads its address at import."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_hub import DatasetHub
from pictures import archive, encoded, picture

READ = """
import json, sys
import datasets, huggingface_hub
from ldm.config import DataConfig
from ldm.data.source import BadImage, open_source
from ldm.core.errors import UserError

def seen(source, i):
    try:
        return [*source.captions(i), *source.image(i).getpixel((0, 0))]
    except BadImage as error:
        return str(error)

def read(name, streaming, split, offline=False):
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = offline
    try:
        source = open_source(DataConfig(source=name, streaming=streaming), split)
    except UserError as error:
        return str(error)
    return [seen(source, i) for i in range(len(source))]

print(json.dumps([read(*case) for case in json.loads(sys.argv[1])]))
"""
NAME = "gardener/flowers"
TARS = "gardener/archives"
CASES = [
    (NAME, False, "train"),
    (NAME, False, "validation"),
    (NAME, True, "train"),
    (NAME, True, "validation"),
    ("gardener/flours", False, "train"),
    (TARS, False, "train"),
    (TARS, False, "validation"),
    (TARS, True, "train"),
    (TARS, False, "train", True),
    (TARS, False, "validation", True),
    ("gardener/flours", False, "train", True),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    files = {}
    for split, count in (("train", 4), ("test", 2)):
        images = [{"bytes": encoded(picture(i)), "path": f"{i}.png"} for i in range(count)]
        table = pa.table({"image": images, "caption": [f"{split} {i}" for i in range(count)]})
        pq.write_table(table, folder / "x.parquet")
        files[f"data/{split}-00000-of-00001.parquet"] = (folder / "x.parquet").read_bytes()
    tars = {}
    for split, count in (("train", 4), ("test", 2)):
        members = [(f"{i}.png", encoded(picture(i))) for i in range(count)]
        members += [(f"{i}.txt", f"{split} {i}".encode()) for i in range(count)]
        if split == "train":  # of 2.png the caption is not UTF-8
            members[-2] = ("2.txt", b"caf\xe9 au lait")
        path = archive(folder / "x.tar", sorted(members))
        tars[f"data/{split}-00000.tar"] = path.read_bytes()
    with DatasetHub({NAME: files, TARS: tars}) as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "no_proxy": "127.0.0.1",
        }
        command = [sys.executable, "-c", READ, json.dumps(CASES)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("streaming", [False, True], ids=["stored", "streamed"])
@pytest.mark.parametrize(
    ("split", "stored", "count"), [("train", "train", 4), ("validation", "test", 2)]
)
def test_a_data_set_is_read_by_its_name(found, streaming, split, stored, count):
    assert found[NAME, streaming, split] == [
        [f"{stored} {i}", *picture(i).getpixel((0, 0))] for i in range(count)
    ]


def test_a_name_that_the_hub_does_not_know_is_a_sentence(found):
    sentence = found["gardener/flours", False, "train"]
    assert sentence.startswith("data.source=gardener/flours is not here, and cannot be loaded as")
    assert "doesn't exist on the Hub" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("offline", [(), (True,)], ids=["from the Hub", "from its cache"])
def test_a_bad_member_of_an_archive_on_the_hub_is_named_and_the_rest_is_read(found, offline):
    train = found[(TARS, False, "train", *offline)]
    assert train.pop(2).startswith("2: txt cannot be read: txt, line 1 is not UTF-8")
    assert train == [[f"train {i}", *picture(i).getpixel((0, 0))] for i in (0, 1, 3)]
    held = found[(TARS, False, "validation", *offline)]
    assert held == [[f"test {i}", *picture(i).getpixel((0, 0))] for i in range(2)]


def test_where_a_stream_of_archives_stops_a_sentence_names_the_last_member_and_the_way_out(found):
    sentence = found[TARS, True, "train"]
    assert sentence.startswith("data.source=gardener/archives cannot be read after row 2, 1 of hf:")
    assert sentence.endswith("; without data.streaming=true what is broken is named and left out")
    assert "data/train-00000.tar: 'utf-8' codec" in sentence


def test_without_the_hub_a_data_set_that_was_never_here_is_a_sentence(found):
    sentence = found["gardener/flours", False, "train", True]
    assert sentence.startswith("data.source=gardener/flours is not here, and cannot be loaded as")
