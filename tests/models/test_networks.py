"""A denoiser is whichever of diffusers' models it is: one call, and a few facts."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet1DModel

from autoencoder.codec import KLCodec
from autoencoder.pixels import Pixels
from ldm.conditions.conditioner import build_conditioner
from ldm.config import ConditioningConfig, Config, DiffusionConfig
from ldm.core.errors import UserError
from ldm.models.network import CAPTION
from ldm.models.networks import configured_network, kind_of, predict
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from pipelines.explained.subject import trained_subject
from pipelines.text_to_image import TextToImagePipeline

SMALL = {"kind": "transformer", "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}


def network(learned_variance=False, latents=(4, 8, 8), **arguments):
    torch.manual_seed(0)
    diffusion = DiffusionConfig(learned_variance=learned_variance)
    return configured_network(
        Config(network=SMALL | arguments, diffusion=diffusion), latents, context_dim=16
    )


def awake(model):
    """With every weight drawn, as none of the zeros of birth is left after some training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("learned", [False, True])
def test_a_transformer_predicts_nothing_at_birth_and_minds_level_and_context_later(learned):
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    label, model = torch.tensor([10.0, 700.0]), network(learned)

    def told(label, context):
        with torch.no_grad():
            return predict(model, x, label, {"caption": context})

    born = told(label, context)
    assert born.shape == (2, 8 if learned else 4, 8, 8) and not born.any()
    awake(model)
    later = told(label, context)
    assert not torch.allclose(later, told(label, context.flip(0)), atol=1e-3)
    assert not torch.allclose(later, told(label.flip(0), context), atol=1e-3)
    # a label for all, as sampling has it
    torch.testing.assert_close(told(torch.tensor(10.0), context)[0], later[0])


def test_a_network_that_is_being_trained_samples_without_its_dropout_and_goes_on_with_it():
    model = network(dropout=0.5).train()
    seen = kind_of(model).sampling(model)
    assert not any(module.training for module in seen.modules()) and model.training


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"num_layer": 2}, "network has no argument 'num_layer'; the nearest is 'num_layers'"),
        ({"caption_channels": 3}, "network.caption_channels follows from the data"),
        ({"patch_size": 3}, "network.patch_size=3 does not divide the 8 x 8 latents"),
        ({"num_layers": "many"}, "network.num_layers='many'"),
        ({"kind": "mamba"}, "network.kind=mamba is not one of unet, transformer"),
    ],
)
def test_a_network_that_cannot_be_is_refused(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        network(**arguments)


def test_a_model_of_no_known_kind_is_refused():
    with pytest.raises(UserError, match="a UNet1DModel is no denoiser that is known here"):
        kind_of(UNet1DModel(block_out_channels=(32, 32, 64)))


def test_a_transformer_on_pixels_samples_the_same_from_its_folder_and_no_stock_pipeline_takes_it(
    tmp_path,
):
    """Neither an autoencoder nor a U-Net: both ports at once."""
    conditioner = build_conditioner(
        ConditioningConfig("class", model={"hidden_size": 16}), ["rose", "daisy"]
    )
    spec = Spec.from_diffusion_config(DiffusionConfig())
    codec, denoiser = KLCodec(Pixels().eval()), awake(network(latents=(3, 8, 8)))
    whole = Model(codec, {CAPTION: conditioner}, denoiser, spec)
    pipe = TextToImagePipeline(whole)
    with pytest.raises(UserError, match="the transformer takes 3 channels and the autoencoder"):
        TextToImagePipeline(whole._replace(codec=KLCodec(Pixels(4))))
    call = {"num_inference_steps": 2, "seed": 0, "output_type": "np", "guidance_scale": 2.0}
    pipe.set_progress_bar_config(disable=True)
    image = pipe("rose", **call).images
    assert image.shape == (1, 8, 8, 3)
    with pytest.raises(UserError, match="stock Stable Diffusion pipelines have an autoencoder"):
        pipe.save_pretrained(tmp_path / "stock")
    pipe.save_pretrained(tmp_path / "own", stock=False)
    again = TextToImagePipeline.from_pretrained(tmp_path / "own")
    again.set_progress_bar_config(disable=True)
    assert (again("rose", **call).images == image).all()
    explained = trained_subject(str(tmp_path / "own"), "rose")
    assert "on the pixels themselves" in explained.about and explained.latents is None
    index = json.loads((tmp_path / "own" / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "PixArtTransformer2DModel"]
    with pytest.raises(Exception, match=r"Pixels|autoencoder|scheduler"):
        StableDiffusionPipeline.from_pretrained(tmp_path / "own")
