"""Real image files, archives and tables, made on the spot."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded, picture

from ldm.data import source as source_module


@pytest.fixture(autouse=True)
def caches_of_their_own(tmp_path, monkeypatch):
    """`datasets` keeps what it converts in the test's folder, and notes are told anew."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.delenv("RANK", raising=False)
    source_module._tell.cache_clear()
    datasets.disable_progress_bars()


@pytest.fixture
def folder(tmp_path) -> Callable[..., Path]:
    """Writes a folder of `count` images a/000.png ...; rows of metadata where given."""

    def write(
        count: int, rows: Sequence[dict] | None = None, where: str = "images", csv: bool = False
    ) -> Path:
        root = tmp_path / where
        (root / "a").mkdir(parents=True)
        for i in range(count):
            picture(i).save(root / "a" / f"{i:03d}.png")
        if rows is not None and csv:
            import pandas

            pandas.DataFrame(rows).to_csv(root / "metadata.csv", index=False)
        elif rows is not None:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (root / "metadata.jsonl").write_text(lines, "utf-8")
        return root

    return write


@pytest.fixture
def images(tmp_path):
    """Writes an image at each path, and gives the folder."""

    def write(*paths: str) -> Path:
        for i, path in enumerate(paths):
            (tmp_path / "v" / path).parent.mkdir(parents=True, exist_ok=True)
            picture(i).save(tmp_path / "v" / path)
        return tmp_path / "v"

    return write


@pytest.fixture
def parquet(tmp_path) -> Callable[..., Path]:
    """Writes a parquet file with embedded images and the given columns."""

    def write(count: int, name: str = "train.parquet", broken: Sequence[int] = (), **columns):
        images = [
            {"bytes": b"no image" if i in broken else encoded(picture(i)), "path": f"{i:03d}.png"}
            for i in range(count)
        ]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": images, **columns}), path, row_group_size=4)
        return path

    return write


@pytest.fixture
def webdataset(tmp_path) -> Callable[..., str]:
    """Writes tar shards of five examples each and returns their glob."""

    def write(count: int, caption: bool = True) -> str:
        (tmp_path / "shards").mkdir()
        for shard in range(-(-count // 5)):
            with tarfile.open(tmp_path / "shards" / f"{shard:03d}.tar", "w") as tar:
                for i in range(5 * shard, min(5 * shard + 5, count)):
                    files = {
                        "png": encoded(picture(i)),
                        "json": json.dumps({"caption": f"number {i}", "width": 40}).encode(),
                        "cls": str(i % 3).encode(),
                    }
                    if not caption:
                        del files["json"]
                    for suffix, data in files.items():
                        info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
        return str(tmp_path / "shards" / "*.tar")

    return write
