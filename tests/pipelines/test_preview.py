"""A preview is the pipeline's own images, the same prompts and seeds at every step."""

import numpy as np
import pytest
import torch
from conftest import quiet, tiny_pipeline
from PIL import Image
from small_evaluation import DATA

from ldm.config import SampleConfig
from ldm.data.source import open_source
from pipelines.evaluation.preview import Preview
from pipelines.evaluation.quality import Quality
from pipelines.text_to_image import TextToImagePipeline


def test_a_preview_shows_every_prompt_and_compares_over_time(tmp_path):
    pipe = tiny_pipeline("class")
    config = SampleConfig(images_per_prompt=2, seed=5)
    preview = Preview(pipe.model, config, ["daisy", "rose"], tmp_path / "samples")
    first, second = preview(10), preview(200)
    assert [p.name for p in (first, second)] == ["step_0000010.png", "step_0000200.png"]
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(second)))
    with Image.open(first) as grid:
        assert grid.width == 2 * (128 + 6) + 6 and grid.height > 2 * 128
        shown = np.asarray(grid)
    own = quiet(TextToImagePipeline(pipe.model, config))
    expected = np.asarray(own("daisy", seed=6).images[0])  # the second image of the first row
    top = next(y for y in range(60) if (shown[y, 140:268] != 255).any(-1).all())
    assert np.array_equal(shown[top : top + 128 : 8, 140:268:8], expected)


def test_an_unconditional_model_is_previewed_without_a_prompt(tmp_path):
    preview = Preview(tiny_pipeline("none").model, SampleConfig(images_per_prompt=1), [], tmp_path)
    assert preview(1).is_file()


def test_a_network_that_gives_no_numbers_has_no_preview_and_no_quality(tmp_path):
    pipe = tiny_pipeline()
    torch.nn.init.constant_(pipe.unet.conv_out.bias, torch.nan)
    preview = Preview(
        pipe.model, SampleConfig(images_per_prompt=1), ["a red flower"], tmp_path / "samples"
    )
    with pytest.warns(UserWarning, match="no picture of step 7"):
        assert preview(7) is None
    sources = {split: open_source(DATA, split) for split in ("train", "validation")}
    assert Quality(pipe.model, pipe.defaults, sources, tmp_path, 20)() == {}
    assert not [*tmp_path.rglob("*.png")]
