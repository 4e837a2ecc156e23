"""Image to image and inpainting mean what diffusers' pipelines mean."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SD_BETAS, generator, quiet, stock_pipeline
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image

from ldm.core.errors import UserError
from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline

CALL = {"num_inference_steps": 10, "guidance_scale": 4.0, "output_type": "np"}


def picture(seed=0, size=(16, 16)):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def half_mask(size=(16, 16)):
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock")
    stock_pipeline(DDIMScheduler(**SD_BETAS, timestep_spacing="trailing")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def repaint(folder):
    return quiet(ImageToImagePipeline.from_pretrained(folder))


@pytest.fixture(scope="module")
def inpaint(folder):
    return quiet(InpaintPipeline.from_pretrained(folder))


LEADING_V = {"timestep_spacing": "leading", "prediction_type": "v_prediction"}


@pytest.mark.parametrize(
    ("scheduler", "options", "strength"),
    [
        (DDIMScheduler, LEADING_V, 0.3),
        (DDIMScheduler, LEADING_V, 1.0),
        (DDPMScheduler, {"timestep_spacing": "trailing"}, 0.75),
        (EulerDiscreteScheduler, {"timestep_spacing": "linspace"}, 0.75),
    ],
)
def test_image_to_image_is_diffusers(tmp_path, scheduler, options, strength):
    stock_pipeline(scheduler(**SD_BETAS, **options)).save_pretrained(tmp_path)
    theirs, ours = (
        quiet(cls.from_pretrained(tmp_path))(
            "rose", image=picture(), strength=strength, generator=generator(1), **CALL
        ).images
        for cls in (StableDiffusionImg2ImgPipeline, ImageToImagePipeline)
    )
    assert np.abs(theirs - ours).max() < 2e-4


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("to_one", [True, False])  # Stable Diffusion's last step ends in noise
def test_inpainting_is_diffusers(tmp_path, strength, to_one):
    scheduler = DDIMScheduler(**SD_BETAS, timestep_spacing="leading", set_alpha_to_one=to_one)
    stock_pipeline(scheduler).save_pretrained(tmp_path)
    stock = quiet(StableDiffusionInpaintPipeline.from_pretrained(tmp_path))
    inpaint = quiet(InpaintPipeline.from_pretrained(tmp_path))
    photo = {"image": picture(size=(24, 18)), "mask_image": half_mask((24, 18))}
    for size in ({}, {"height": 16, "width": 24}):
        options = {**photo, **size, "strength": strength, **CALL}
        theirs = stock("rose", generator=generator(1), **options).images
        ours = inpaint("rose", generator=generator(1), **options).images
        assert theirs.shape == ours.shape
        assert np.abs(theirs - ours).max() < 2e-4


def test_inpainting_keeps_what_is_black_and_paints_what_is_white(inpaint):
    call = CALL | {"output_type": "latent"}
    images = {"image": picture(), "mask_image": half_mask()}
    ends = [inpaint(p, **images, seed=0, **call).images for p in ("rose", "daisy")]
    difference = (ends[0] - ends[1]).abs()
    assert difference[..., 4:].max() == 0 and difference[..., :4].max() > 1e-3
    black = inpaint("rose", image=picture(), mask_image=Image.new("L", (16, 16)), seed=0, **call)
    torch.testing.assert_close(black.images[..., 4:], ends[0][..., 4:], rtol=0, atol=1e-5)


def test_a_little_strength_changes_little(repaint):
    pixels = torch.tensor(np.asarray(picture())).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        z = repaint.vae.encode(pixels).latent_dist.mean * repaint.vae.config.scaling_factor
    call = CALL | {"output_type": "latent", "seed": 0}
    ends = [repaint("rose", image=picture(), strength=s, **call).images for s in (0.1, 0.5)]
    assert (ends[0] - z).std() < 0.5 * (ends[1] - z).std()


def test_an_image_and_a_seed_for_each_prompt_do_not_depend_on_the_batch(repaint, inpaint):
    prompts, pictures = ["rose", "daisy", "oxeye daisy"], [picture(i) for i in range(3)]
    for pipe, extra in ((repaint, {"strength": 0.7}), (inpaint, {"mask_image": half_mask()})):
        batch = pipe(
            prompts, image=pictures, seed=4, num_images_per_prompt=2, **extra, **CALL
        ).images
        alone = pipe("oxeye daisy", image=pictures[2], seed=9, **extra, **CALL).images
        assert batch.shape == (6, 16, 16, 3)
        assert np.abs(alone[0] - batch[5]).max() < 1e-4


def test_guidance_acts_in_its_interval(repaint, inpaint):
    for pipe, mask in ((repaint, {}), (inpaint, {"mask_image": picture()})):
        call = {"image": picture(), "seed": 0, "num_inference_steps": 5} | mask
        call["output_type"] = "np"
        own = replace(pipe.defaults, guidance_interval=(0.0, 0.0))
        nowhere = pipe("rose", guidance_interval=(0, 0), **call).images
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipe, "defaults", own)
            assert np.array_equal(pipe("rose", **call).images, nowhere)
        assert np.abs(nowhere - pipe("rose", guidance_scale=1.0, **call).images).max() < 1e-5
        assert np.abs(nowhere - pipe("rose", **call).images).max() > 1e-3


def test_the_images_size_is_kept(repaint):
    for size in ((24, 32), (25, 33)):
        images = repaint("rose", image=picture(size=size), num_inference_steps=2).images
        assert images[0].size == (24, 32)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "image is missing"),
        ({"image": picture(), "strength": 0.0}, "strength=0.0 of 50 steps"),
        ({"image": picture(), "strength": 1.5}, "at most 1"),
        ({"image": picture(), "strength": 0.05, "num_inference_steps": 10}, "at least one step"),
        ({"image": [picture()] * 3}, "3 images for 2 prompts"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(repaint, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        repaint(["rose", "daisy"], **arguments)


def test_a_missing_mask_or_too_many_gets_a_sentence(inpaint):
    with pytest.raises(UserError, match="mask_image is missing"):
        inpaint("rose", image=picture())
    with pytest.raises(UserError, match="2 masks for 1 prompts"):
        inpaint("rose", image=picture(), mask_image=[half_mask()] * 2)
