"""An export opens and runs in every stock pipeline of its kind, whatever class a user takes."""

import pytest
from conftest import quiet, tiny_pipeline
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

from pipelines.text_to_image import TextToImagePipeline

PHOTO = {"image": Image.new("RGB", (16, 16), "red")}
MASK = {"mask_image": Image.new("L", (16, 16), 255)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    tiny_pipeline("class").save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("cls", "call"),
    [
        (StableDiffusionPipeline, {}),
        (StableDiffusionImg2ImgPipeline, PHOTO),
        (StableDiffusionInpaintPipeline, PHOTO | MASK),
        (StableDiffusionPAGPipeline, {"pag_scale": 2.0}),
        (AutoPipelineForText2Image, {}),
        (AutoPipelineForImage2Image, PHOTO),
        (AutoPipelineForInpainting, PHOTO | MASK),
    ],
)
def test_an_export_opens_and_runs_in(folder, cls, call):
    pipe = quiet(cls.from_pretrained(folder, safety_checker=None))
    assert pipe("daisy", num_inference_steps=2, **call).images[0].size == (16, 16)


@pytest.mark.filterwarnings("ignore")
def test_stock_pipelines_are_made_of_an_opened_one(folder):
    first = quiet(AutoPipelineForText2Image.from_pretrained(folder))
    calls = {
        AutoPipelineForImage2Image: PHOTO,
        AutoPipelineForInpainting: PHOTO | MASK,
        AutoPipelineForText2Image: {"pag_scale": 2.0},
    }
    for cls, call in calls.items():
        pipe = quiet(cls.from_pipe(first, enable_pag="pag_scale" in call))
        assert pipe("daisy", num_inference_steps=2, **call).images[0].size == (16, 16)


def test_an_export_of_before_is_mended_by_loading_and_saving(folder, tmp_path):
    pipe = tiny_pipeline("class")
    pipe.unet.register_to_config(sample_size=[8, 8])
    pipe.save_pretrained(tmp_path / "old")
    TextToImagePipeline.from_pretrained(tmp_path / "old").save_pretrained(tmp_path / "new")
    StableDiffusionImg2ImgPipeline.from_pretrained(tmp_path / "new", safety_checker=None)
