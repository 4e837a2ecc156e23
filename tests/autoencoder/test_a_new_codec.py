"""A codec is one file and one line: it is built by name, cached in, sampled with, saved, read."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from autoencoder.cache import LatentCache
from autoencoder.model import CODECS, configured_codec
from ldm.config import load_config
from ldm.core.errors import UserError
from ldm.core.share import ALONE
from ldm.data.source import open_source
from ldm.models.network import CAPTION
from ldm.models.unet import build_unet
from ldm.models.view import view
from ldm.ports.codec import CodecKind
from ldm.ports.model import Model
from pipelines.calls.defaults import StockDefaults
from pipelines.text_to_image import TextToImagePipeline
from tests.pipelines.conftest import quiet, tiny_parts, tiny_pipeline

SETTINGS = ["data.source=drawn", "data.size=20", "data.resolution=16", "data.workers=0"]


class Folded(ModelMixin, ConfigMixin):
    """Blocks of 2 x 2 pixels as 12 channels."""

    @register_to_config
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("std", torch.ones(12))


@dataclass(frozen=True)
class FoldedCodec:
    module: Folded
    name = "blocks"
    channels, factor = 12, 2

    def shape(self, resolution):
        return 12, resolution // 2, resolution // 2

    def _plane(self, name):
        return getattr(self.module, name)[:, None, None]

    def encode(self, pixels, noise):
        rows = (pixel_unshuffle(pixels, 2) - self._plane("mean")) / self._plane("std")
        return rows.repeat_interleave(len(noise) // len(pixels), 0)

    def decode(self, latents):
        pixels = pixel_shuffle(latents * self._plane("std") + self._plane("mean"), 2)
        return (pixels / 2 + 0.5).clamp(0, 1)

    def moments(self, pixels):
        folded = pixel_unshuffle(pixels, 2)
        return torch.cat([folded, torch.full_like(folded, -30.0)], 1)

    def nominal(self):
        return torch.zeros(12).double(), torch.ones(12).double()

    def standardize(self, mean, std):
        self.module.mean.copy_(mean)
        self.module.std.copy_(std)

    def around(self, module):
        return replace(self, module=module)

    def in_strips(self, wanted):
        raise UserError("blocks take no memory")

    def view(self):
        return FoldedCodec(view(self.module))


def test_a_codec_is_one_file_and_one_line(tmp_path, monkeypatch):
    config = load_config(None, [*SETTINGS, "autoencoder.kind=folded"])
    with pytest.raises(UserError, match=r"autoencoder\.kind=folded is not one of kl, pixels"):
        configured_codec(config)
    monkeypatch.setitem(CODECS, "folded", CodecKind((Folded,), FoldedCodec, Folded))
    codec = configured_codec(config)

    source = open_source(config.data, "train", needs="nothing")
    cache = LatentCache.build(codec, source, config, tmp_path / "cache", 0, "cpu", ALONE)
    codec.standardize(*cache.statistics)
    latents = cache.sample([3], [0], [False], torch.zeros(1, *cache.shape))
    pixels = np.asarray(source.image(3).resize((16, 16)), float) / 255
    image = codec.decode(latents)[0].permute(1, 2, 0).numpy()
    assert latents.shape == (1, 12, 8, 8) and abs(image.mean() - pixels.mean()) < 0.01

    text = tiny_parts("class")[2]
    sizes = {"sample_size": 8, "in_channels": 12, "out_channels": 12, "cross_attention_dim": 32}
    unet = build_unet({"block_out_channels": (32, 32), "layers_per_block": 1}, **sizes).eval()
    model = Model(codec, {CAPTION: text}, unet, tiny_pipeline("class").spec)
    pipe = quiet(TextToImagePipeline(model, StockDefaults(num_inference_steps=2)))
    with pytest.raises(UserError, match="this model diffuses blocks of a Folded"):
        pipe.save_pretrained(tmp_path / "stock")
    pipe.save_pretrained(tmp_path / "own", stock=False)
    again = quiet(TextToImagePipeline.from_pretrained(tmp_path / "own"))
    assert isinstance(again.model.codec, FoldedCodec)
    pictures = [p("rose", seed=0, output_type="np").images for p in (pipe, again)]
    assert pictures[0].shape == (1, 16, 16, 3) and np.array_equal(*pictures)
