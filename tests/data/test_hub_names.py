"""Data sets by Hub name, in a process of its own: the client reads its address at import."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_hub import DatasetHub
from pictures import encoded, picture

READ = """
import json, sys
from ldm.config import DataConfig
from ldm.data.source import open_source
from ldm.errors import UserError

def read(name, streaming, split):
    try:
        source = open_source(DataConfig(source=name, streaming=streaming), split)
    except UserError as error:
        return str(error)
    return [[*source.captions(i), *source.image(i).getpixel((0, 0))] for i in range(len(source))]

print(json.dumps([read(*case) for case in json.loads(sys.argv[1])]))
"""
NAME = "gardener/flowers"
CASES = [
    (NAME, False, "train"),
    (NAME, False, "validation"),
    (NAME, True, "train"),
    (NAME, True, "validation"),
    ("gardener/flours", False, "train"),
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
    with DatasetHub(NAME, files) as hub:
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
