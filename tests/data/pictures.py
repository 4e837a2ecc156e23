"""Small pictures, rows and configs that the tests of this folder are made of."""

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ldm.config import DataConfig

Member = tuple[str, bytes] | tarfile.TarInfo  # of an archive


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """A smooth picture that is not like that of another seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rows(count: int, **columns: Callable[[int], object]) -> list[dict]:
    return [
        {"file_name": f"a/{i:03d}.png", **{k: f(i) for k, f in columns.items()}}
        for i in range(count)
    ]


def config(source: object, **options: object) -> DataConfig:
    return DataConfig(source=str(source), **options)


def archive(path: Path, members: Sequence[Member]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            data = b"" if isinstance(member, tarfile.TarInfo) else member[1]
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
