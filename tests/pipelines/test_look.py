"""What `ldm data` tells and shows of a data set that holds more than fits."""

import json

import numpy as np
from PIL import Image

from pipelines.commands.look import TOLD, draw_data, look_at


def test_a_caption_of_44_000_characters_fills_neither_the_table_nor_the_picture(tmp_path):
    captions = ["x" * 44_000, "a word " * 6_300, "a rose", "花", "قطة"]
    (tmp_path / "set").mkdir()
    for i in range(len(captions)):
        noise = np.random.default_rng(i).integers(0, 255, (24, 24, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "set" / f"{i}.png")
    rows = [{"file_name": f"{i}.png", "text": text} for i, text in enumerate(captions)]
    table = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "set" / "metadata.jsonl").write_text(table)
    settings = [f"data.source={tmp_path / 'set'}", "data.holdout=0", f"output={tmp_path / 'runs'}"]
    source, told = look_at(None, settings)
    assert max(len(value) for value in told.values()) < 6 * TOLD
    with Image.open(draw_data(source, tmp_path / "data.png", 5)) as picture:
        assert picture.width == 5 * 172 and picture.height < 500
