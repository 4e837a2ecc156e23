"""An export opens and runs in every stock pipeline of its kind, whatever class a user takes."""

import os
import subprocess
import sys

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


# with the transformers that each was made for, or what it imports besides the installed one
OTHERS = {
    "0.25.1": ["transformers==4.44.2", "tokenizers==0.19.1", "huggingface_hub==0.24.7"],
    "0.30.3": ["transformers==4.44.2", "tokenizers==0.19.1", "huggingface_hub==0.24.7"],
    "0.37.0": ["httpx", "httpcore", "h11", "anyio", "sniffio", "certifi", "idna"],
}
SCRIPT = """
import sys
import diffusers
from PIL import Image
photo, mask = Image.new("RGB", (16, 16), "red"), Image.new("L", (16, 16), 255)
for name, call in {
    "StableDiffusionPipeline": {},
    "StableDiffusionImg2ImgPipeline": {"image": photo},
    "StableDiffusionInpaintPipeline": {"image": photo, "mask_image": mask},
    "AutoPipelineForText2Image": {},
    "AutoPipelineForImage2Image": {"image": photo},
}.items():
    pipe = getattr(diffusers, name).from_pretrained(sys.argv[1])
    assert pipe("daisy", num_inference_steps=2, **call).images[0].size == (16, 16), name
print(diffusers.__version__)
"""


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("version", OTHERS)
def test_an_export_opens_in_other_releases_of_diffusers(folder, tmp_path, version):
    """Needs the package registry."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(tmp_path)]
    subprocess.run([*pip, "--no-deps", f"diffusers=={version}", *OTHERS[version]], check=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == version
