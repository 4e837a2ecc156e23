"""diffusers' names read and set the parts of a pipeline's model, which stays one model."""

import pytest
import torch
from conftest import tiny_parts, tiny_pipeline
from diffusers import AutoencoderKL

from ldm.core.errors import UserError
from ldm.models.networks import KINDS
from ldm.models.unet import UNET
from pipelines.calls.call import Begin
from pipelines.text_to_image import TextToImagePipeline


@pytest.fixture
def pipe():
    return tiny_pipeline("class")


def test_a_part_that_does_not_fit_is_refused_and_the_model_stays(pipe):
    before = pipe.model
    wide = AutoencoderKL(block_out_channels=(8,), norm_num_groups=8, latent_channels=8)
    with pytest.raises(UserError, match="takes 4 channels and the autoencoder has 8"):
        pipe.vae = wide
    assert pipe.model is before
    pipe.unet, pipe.text_encoder, pipe.tokenizer = pipe.unet, pipe.text_encoder, pipe.tokenizer
    pipe.spec = pipe.spec
    assert pipe.model == before


def test_another_autoencoder_is_tiled_as_the_one_before(pipe):
    pipe.enable_vae_tiling()
    pipe.vae = tiny_parts("class")[0]
    assert pipe.model.codec.strips
    assert TextToImagePipeline.from_pipe(pipe).model.codec.strips


def test_a_compiled_network_is_the_network_and_its_weights_keep_their_names(pipe):
    unet = pipe.unet
    pipe.unet = torch.compile(unet)
    assert pipe.unet is unet


def test_a_property_that_fails_says_why(pipe):
    class Broken(type(pipe)):
        @property
        def dtype(self):
            return self.unet.a_type

    with pytest.raises(AttributeError, match="a_type"):
        assert Broken(pipe.model).dtype
    with pytest.raises(UserError, match="load_lora_weights"):
        pipe.load_lora_weights("x")


def test_a_part_set_in_a_callback_is_for_the_next_call(pipe):
    other = tiny_parts("class", block_out_channels=(32, 32))[1]
    call = {"seed": 0, "num_inference_steps": 2, "output_type": "latent"}
    alone = pipe("rose", **call).images

    def swap(pipeline, step, timestep, kwargs):
        pipeline.unet = other
        return kwargs

    assert torch.equal(pipe("rose", callback_on_step_end=swap, **call).images, alone)
    assert pipe.unet is other


def test_a_pipeline_tells_its_network_more_than_the_prompt(pipe, monkeypatch):
    """Each image its own row, guided or not: as a low-resolution picture or an embedding would."""
    seen = []

    def predict(network, x, label, told):
        seen.append(told["shade"].tolist())
        return UNET.predict(network, x, label, {"caption": told["caption"]})

    monkeypatch.setitem(KINDS, "unet", UNET._replace(predict=predict))
    noise = torch.zeros(2, 4, 8, 8)

    def call(scale):
        seen.clear()
        options = {"guidance_scale": scale, "num_images_per_prompt": 2, "output_type": "latent"}
        also = {"shade": torch.tensor([1.0, 2.0])}
        pipe.run("rose", 1, (4, 8, 8), lambda call: Begin(noise, call.levels), options, also)
        return seen

    assert call(1.0) == [[1, 2]] and call(3.0) == [[1, 2, 1, 2]]


@pytest.mark.parametrize("steps", [5, 6, 7])
def test_brownian_noise_goes_with_ddim_wherever_its_steps_end(pipe, steps):
    """Stock DDIM's end beside the grid's next level, the last of them perhaps on a clean one."""
    images = pipe("rose", num_inference_steps=steps, sampler="ddim", eta=1.0, brownian=True, seed=0)
    assert images.images
