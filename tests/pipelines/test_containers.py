"""A stock pipeline of another kind is one record: its folder is then written and read as any."""

import numpy as np
import pytest
import torch
from conftest import quiet, tiny_parts
from diffusers import DiffusionPipeline, PixArtTransformer2DModel
from PIL import Image

from autoencoder.codec import KLCodec
from ldm.conditions.conditioner import Conditioner
from ldm.config import DiffusionConfig
from ldm.core.errors import UserError
from ldm.models.network import CAPTION, Shape
from ldm.models.networks import kind_of
from ldm.models.transformer import TRANSFORMER, build_transformer
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from pipelines.calls.defaults import StockDefaults
from pipelines.containers.container import Container
from pipelines.containers.table import CONTAINERS
from pipelines.containers.writer import unfit
from pipelines.image_to_image import ImageToImagePipeline
from pipelines.text_to_image import TextToImagePipeline


class WithATransformer(DiffusionPipeline):
    """Somebody's pipeline of diffusers, whose denoiser has another name."""

    def __init__(self, vae, transformer, tokenizer, text_encoder, scheduler):
        super().__init__()
        self.register_modules(
            vae=vae,
            transformer=transformer,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            scheduler=scheduler,
        )


def parts(model):
    return {
        "vae": model.codec.module,
        "transformer": model.network,
        "tokenizer": model.text.tokenizer,
        "text_encoder": model.text.encoder,
    }


def model(parts, process):
    text = Conditioner(parts["tokenizer"], parts["text_encoder"], trainable=False)
    return Model(KLCodec(parts["vae"]), {CAPTION: text}, parts["transformer"], process)


TRANSFORMERS = Container(
    pipeline=WithATransformer,
    nothing={},
    classes=("WithATransformer",),
    networks=lambda: {
        "vae": CONTAINERS["stable_diffusion"].networks()["vae"],
        "transformer": {"PixArtTransformer2DModel": PixArtTransformer2DModel},
        "text_encoder": {},
    },
    unfit=lambda model: None if kind_of(model.network) is TRANSFORMER else "it has no transformer",
    parts=parts,
    model=model,
)


@pytest.fixture(scope="module")
def pipe():
    vae, _, conditioner = tiny_parts("class")
    small = {
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    network = build_transformer(small, Shape((4, 8, 8), 4, conditioner.context_dim)).eval()
    torch.nn.init.normal_(network.proj_out.weight)  # which begins as zeros
    process = Spec.from_diffusion_config(DiffusionConfig())
    whole = Model(KLCodec(vae), {CAPTION: conditioner}, network, process)
    return quiet(TextToImagePipeline(whole, StockDefaults(num_inference_steps=2)))


def test_a_container_is_one_record_and_one_line(pipe, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="hold a U-Net, and this is a transformer"):
        pipe.save_pretrained(tmp_path)
    assert "transformer" in unfit(pipe.model)
    monkeypatch.setitem(CONTAINERS, "transformer", TRANSFORMERS)
    assert unfit(pipe.model) is None
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "transformer" / "config.json").is_file() and pipe.components["transformer"]
    image = pipe("rose", seed=0).images[0]
    again = quiet(TextToImagePipeline.from_pretrained(tmp_path))
    assert np.array_equal(again("rose", seed=0).images[0], image)
    theirs = WithATransformer(**pipe.components, scheduler=pipe.scheduler)
    assert np.array_equal(
        quiet(TextToImagePipeline.from_pipe(theirs))("rose", seed=0, num_inference_steps=2).images[
            0
        ],
        image,
    )
    with pytest.raises(UserError, match="18 x 16, and must be multiples of 4"):
        pipe("rose", height=18)
    odd = Image.new("RGB", (22, 19))  # pixels: patches are of 4
    assert ImageToImagePipeline.from_pipe(pipe)("rose", image=odd).images[0].size == (20, 16)
    given = TextToImagePipeline.from_pretrained(tmp_path, transformer=pipe.model.network)
    assert given.model.network is pipe.model.network
