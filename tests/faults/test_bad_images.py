"""Files that are no sound pictures, by the hundred: each is decoded or named with the reason."""

import io
import json
import random

import numpy as np
import pytest
from PIL import Image

from ldm.config import DataConfig
from ldm.core.errors import UserError
from ldm.data.quarantine import checked
from ldm.data.source import open_source

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "GIF": ".gif"}
FORMATS |= {"BMP": ".bmp", "PPM": ".ppm"}
MODES = ("RGB", "L", "RGBA", "CMYK", "P", "1", "I;16", "LA")


def pictures():
    """(format, mode, bytes) of everything that Pillow writes of these."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 31, 3), np.uint8)
    for kind in FORMATS:
        for mode in MODES:
            buffer = io.BytesIO()
            image = Image.fromarray(noise)
            image = image.convert("L").convert("I").convert(mode) if ";" in mode else image
            try:
                image.convert(mode).save(buffer, kind)
            except (OSError, ValueError, KeyError):
                continue
            yield kind, mode, buffer.getvalue()


def damaged(data: bytes, dice: random.Random):
    """(what was done, bytes): cuts, flips, swaps, garbage before and behind."""
    yield "whole", data
    for _ in range(4):
        yield "cut", data[: dice.randrange(len(data))]
    for _ in range(8):
        place = dice.randrange(len(data))
        yield (
            "flipped",
            data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :],
        )
    a, b = sorted(dice.randrange(len(data)) for _ in range(2))
    yield "zeroed", data[:a] + bytes(b - a) + data[b:]
    yield "left out", data[:a] + data[b:]
    yield "garbage before", dice.randbytes(9) + data
    yield "garbage behind", data + dice.randbytes(999)


def test_every_file_is_decoded_or_named_with_the_reason(tmp_path, note, recwarn):
    dice, lines, whole = random.Random(0), [], set()
    for kind, mode, data in pictures():
        for what, bad in damaged(data, dice):
            name = f"{len(lines):04d}{FORMATS[kind]}"
            (tmp_path / name).write_bytes(bad)
            lines.append({"file_name": name, "text": f"{kind} {mode} {what}"})
            whole |= {name} if what in ("whole", "garbage behind") else set()
    for index, name in enumerate(FORMATS.values()):  # no picture at all
        for size in (0, 1, 100):
            (tmp_path / f"x{index}{size}{name}").write_bytes(dice.randbytes(size))
            lines.append({"file_name": f"x{index}{size}{name}", "text": "noise"})
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = open_source(DataConfig(source=str(tmp_path), holdout=0))
    assert len(source) == len(lines) > 500
    with pytest.raises(UserError, match=r"images cannot be used, which is over 1%"):
        checked(source, tmp_path / "cache")
    listed = (tmp_path / "cache" / "quarantine.jsonl").read_text().splitlines()
    named = {json.loads(line)["name"].split("/")[-1] for line in listed}
    for index in range(len(source)):
        name = source.name(index).split("/")[-1]
        if name in named:
            assert name not in whole, f"{name}: {lines[index]} is sound"
            note("a bad image", "a sentence")
        else:  # of a format without checksums a flipped bit is another picture
            image = source.image(index)
            assert image.mode == "RGB" and image.size[0] > 0
            note("a bad image", "as without it")
    assert not list(recwarn)
