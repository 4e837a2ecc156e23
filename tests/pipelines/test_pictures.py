"""A picture given to a call is read as training reads it, whatever its form."""

import warnings

import numpy as np
import pytest
import torch
from conftest import SD_BETAS, generator, quiet, stock_pipeline
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image

from autoencoder.codec import KLCodec
from ldm.core.errors import UserError
from ldm.data.pictures.decoding import as_rgb
from pipelines.calls.pictures import Pictures, painted
from pipelines.image_to_image import ImageToImagePipeline
from pipelines.inpaint import InpaintPipeline

CALL = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "np"}


@pytest.fixture(scope="module")
def vae():
    return stock_pipeline(DDIMScheduler(**SD_BETAS)).vae


def bytes_of(vae, image, size=None):
    """(k, 3, H, W) of 0 to 255, as the autoencoder is given them."""
    return (Pictures.of(image, KLCodec(vae), size).tensor + 1) * 127.5


RGB = np.random.default_rng(0).integers(0, 256, (16, 12, 3), np.uint8)
GREY = RGB[..., 0]
PIL = Image.fromarray(RGB)


def test_one_picture_in_many_forms_is_one(vae, tmp_path):
    PIL.save(tmp_path / "a.png")
    tensor = torch.from_numpy(RGB).permute(2, 0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in (
            PIL, RGB, RGB[None], [RGB], [PIL], str(tmp_path / "a.png"), tmp_path / "a.png",
            tensor, tensor[None], RGB / 255, (RGB / 255).astype(np.float16), tensor / 255,
            tensor[None] / 127.5 - 1, PIL.convert("RGBA"), [tensor / 255],
        ):  # fmt: skip
            found = bytes_of(vae, form)
            assert found.shape == (1, 3, 16, 12)
            torch.testing.assert_close(found[0], tensor.float(), rtol=0, atol=0.1)


def test_grey_ones_and_several_are_told_from_colour_by_their_shape(vae):
    grey = torch.from_numpy(GREY).float()
    for form in (GREY, GREY[..., None], GREY / 255, torch.from_numpy(GREY), Image.fromarray(GREY)):
        found = bytes_of(vae, form)
        torch.testing.assert_close(found[0], grey.expand(3, -1, -1), rtol=0, atol=0.1)
    assert bytes_of(vae, np.stack([GREY] * 5)).shape == (5, 3, 16, 12)
    assert bytes_of(vae, [RGB, RGB[::-1]]).shape == (2, 3, 16, 12)


def layer(mode, colour, alpha):
    return Image.new("RGBA", (16, 12), (*colour, alpha)).convert(mode)


def deep():
    return Image.fromarray(np.linspace(0, 65535, 192).reshape(12, 16).astype(np.uint16))


@pytest.mark.parametrize(
    "image",
    [
        layer("RGBA", (200, 10, 10), 128),
        layer("LA", (100, 100, 100), 0),
        PIL.quantize(8),
        PIL.convert("CMYK"),
        PIL.convert("1"),
        deep(),
    ],
    ids=["RGBA", "LA", "P", "CMYK", "1", "I;16"],
)
def test_every_mode_is_what_training_sees(vae, image):
    expected = torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1).float()
    torch.testing.assert_close(bytes_of(vae, image)[0], expected, rtol=0, atol=0.1)


def test_photos_are_turned_upright_and_what_is_transparent_is_white(vae):
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    turned = PIL.copy()
    turned.info["exif"] = exif.tobytes()
    turned.getexif()[274] = 6
    assert bytes_of(vae, turned).shape == (1, 3, 12, 16)
    clear = np.zeros((16, 12, 4), np.uint8)
    for form in (clear, Image.fromarray(clear), clear / 255):
        assert bytes_of(vae, form).min() == 255


def test_masks_are_read_in_every_form_and_are_black_where_they_are_transparent(vae):
    half = np.zeros((16, 12), np.uint8)
    half[:8] = 255
    strokes = np.zeros((16, 12, 4), np.uint8)
    strokes[:8] = 255  # white paint on nothing, as drawing tools give it
    expected = painted(Image.fromarray(half), KLCodec(vae), (8, 6))
    assert expected.shape == (1, 1, 8, 6) and expected[..., :4, :].all()
    assert not expected[..., 4:, :].any()
    for form in (
        half, half > 0, half / 255, half[None], half[..., None], np.stack([half] * 3, -1),
        torch.from_numpy(half), torch.from_numpy(half / 255)[None], strokes,
        Image.fromarray(strokes), Image.fromarray(half).convert("1"), strokes / 255,
        Image.fromarray(half.astype(np.uint16) * 257),
    ):  # fmt: skip
        assert torch.equal(painted(form, KLCodec(vae), (8, 6)), expected)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ([], "image is an empty list"),
        ((), "image is an empty list"),
        (3, "image is a int: pass PIL images"),
        ({"image": PIL}, "image is a dict"),
        ("https://example.org/a.png", "is an address: fetch it"),
        ("no/such.png", "image=no/such.png cannot be read"),
        (np.full((16, 12, 3), np.nan), "image holds NaN"),
        (RGB.astype(float), r"values from 0 to 25\d: pass floats in \[0, 1\], or uint8"),
        (RGB.astype(np.int64), "image is of int64: pass uint8"),
        (np.zeros((0, 12, 3), np.uint8), r"image is an array \(0, 12, 3\)"),
        (np.zeros(5), r"image is an array \(5,\)"),
        (RGB.transpose(2, 0, 1), "pass channels last"),
        (RGB[:1, :1], "image is 1 x 1 pixels, and the least is 2 x 2"),
        ([RGB, RGB[:8]], "pictures of 2 sizes"),
        ([RGB, RGB / 255], "mixes 8-bit pictures with floats"),
        (torch.zeros(1, 5, 16, 16), "image has 5 channels"),
    ],
)
def test_what_is_no_picture_gets_a_sentence(vae, image, sentence):
    with pytest.raises(UserError, match=sentence):
        Pictures.of(image, KLCodec(vae))


@pytest.fixture(scope="module")
def noisy():
    """A folder whose sampler draws noise at every step, so that every draw counts."""
    return stock_pipeline(DDPMScheduler(**SD_BETAS, clip_sample=False))


def stock_and_ours(noisy, theirs, ours):
    return quiet(theirs(**noisy.components, requires_safety_checker=False)), quiet(
        ours.from_pipe(noisy)
    )


def test_latents_are_taken_as_they_are_as_in_diffusers(noisy):
    pipes = stock_and_ours(noisy, StableDiffusionImg2ImgPipeline, ImageToImagePipeline)
    z = torch.randn(1, 4, 8, 8, generator=generator(5))
    theirs, ours = (p("rose", image=z, generator=generator(1), **CALL).images for p in pipes)
    assert np.abs(theirs - ours).max() < 2e-4
    made = pipes[1]("rose", image=z, seed=0, **CALL | {"output_type": "latent"}).images
    assert pipes[1]("rose", image=made, seed=0, **CALL).images.shape == (1, 16, 16, 3)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_one_generator_draws_as_in_diffusers_also_for_several_images(noisy, strength):
    photo, mask = Image.fromarray(RGB).resize((16, 16)), Image.fromarray(GREY).resize((16, 16))
    for theirs, ours, given in (
        (StableDiffusionImg2ImgPipeline, ImageToImagePipeline, {}),
        (StableDiffusionInpaintPipeline, InpaintPipeline, {"mask_image": mask}),
    ):
        stock, own = (
            pipe("rose", image=photo, **given, strength=strength, num_images_per_prompt=2,
                 generator=generator(1), **CALL).images
            for pipe in stock_and_ours(noisy, theirs, ours)
        )  # fmt: skip
        assert np.abs(stock - own).max() < 2e-4


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -0.5, 0.0, "a"])
def test_a_strength_that_is_none_gets_a_sentence(noisy, strength):
    with pytest.raises(UserError, match="strength="):
        quiet(ImageToImagePipeline.from_pipe(noisy))("rose", image=PIL, strength=strength, **CALL)


def test_a_mask_of_0_and_1_is_a_mask_and_colours_of_16_bits_get_a_sentence(vae):
    mask = np.zeros((16, 16), np.uint8)
    mask[:8] = 1
    size, codec = (8, 8), KLCodec(vae)
    assert torch.equal(painted(mask, codec, size), painted(mask * 255, codec, size))
    assert painted(mask, codec, size).mean() == 0.5
    with pytest.raises(UserError, match="colours of uint16"):
        Pictures.of(np.zeros((16, 16, 3), np.uint16), codec)
