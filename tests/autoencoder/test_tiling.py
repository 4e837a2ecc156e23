"""Large images in strips: the same numbers as the whole, hence no seams."""

import pytest
import torch

from autoencoder.latents import decode, downsampling, encode_moments
from autoencoder.model import build_autoencoder
from autoencoder.tiling import InStrips
from ldm.core.errors import UserError


@pytest.fixture(scope="module", params=[1, 2], ids=["shallow", "deep"])
def model(request):
    torch.manual_seed(0)
    widths = [8, 16, 16] if request.param == 1 else [8, 8, 16, 24]
    kwargs = {"layers_per_block": request.param, "norm_num_groups": 4}
    return build_autoencoder({"block_out_channels": widths, **kwargs}).eval()


@pytest.mark.parametrize("strip", [50, 700, 10**6])
def test_strips_give_what_the_whole_gives(model, strip):
    pixels = torch.rand(2, 3, 72, 56, generator=torch.manual_seed(0)) * 2 - 1
    with torch.no_grad():
        moments = encode_moments(model, pixels)
        latents = moments.chunk(2, dim=1)[0]
        image = decode(model, latents)
    strips = InStrips(model, strip)
    torch.testing.assert_close(encode_moments(strips, pixels), moments, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decode(strips, latents), image, atol=5e-5, rtol=0)


def test_only_a_strip_is_in_work_at_a_time(model, monkeypatch):
    seen = []
    real = torch.nn.functional.conv2d

    def measured(x, *rest):
        seen.append(x.shape[-2])
        return real(x, *rest)

    latents = torch.randn(1, 4, 24, 16, generator=torch.manual_seed(0))
    width = latents.shape[-1] * downsampling(model)
    monkeypatch.setattr("autoencoder.tiling.F.conv2d", measured)
    image = decode(InStrips(model, 4 * width), latents)
    assert seen.count(6) > image.shape[-2] // 4  # four rows, one more above and one below
    at_full_width = seen[-(image.shape[-2] // 4) :]
    assert max(at_full_width) == 6


def test_half_precision_decodes_in_strips_as_it_does_whole(model):
    latents = torch.randn(1, 4, 16, 16, generator=torch.manual_seed(0))
    low = model.bfloat16()
    with torch.no_grad():
        torch.testing.assert_close(
            decode(InStrips(low, 300), latents).float(),
            decode(low, latents).float(),
            atol=0.1,
            rtol=0.1,
        )
    model.float()


def test_attention_in_the_outer_blocks_is_refused():
    vae = build_autoencoder(
        {
            "block_out_channels": [8, 8],
            "norm_num_groups": 4,
            "up_block_types": ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"],
        }
    )
    with pytest.raises(UserError, match="AttnUpDecoderBlock2D cannot be computed in strips"):
        InStrips(vae)
