"""The U-Net is stock; its two processors are exact."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0

from ldm.core.errors import UserError
from ldm.models.attention import CachedContextProcessor, caching_context, perturbing_attention
from ldm.models.unet import build_unet, parameter_count

SHAPE = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 16}


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return build_unet({"block_out_channels": [32, 64], "layers_per_block": 1}, **SHAPE).eval()


@pytest.fixture(scope="module")
def inputs():
    g = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 5, 16, generator=g)
    return x, torch.tensor([500, 20]), context


@torch.no_grad()
def test_cached_context_is_exact_and_projects_each_context_once(unet, inputs):
    x, t, context = inputs
    other = context.flip(0)
    calls = []
    attentions = [m for n, m in unet.named_modules() if n.endswith("attn2")]
    hooks = [m.to_k.register_forward_hook(lambda *_: calls.append(1)) for m in attentions]
    plain = [unet(x, t, c).sample for c in (context, other)]
    calls.clear()
    cached = caching_context(unet)
    for _ in range(3):
        for c, expected in zip((context, other), plain, strict=True):
            assert torch.equal(cached(x, t, c).sample, expected)
    for hook in hooks:
        hook.remove()
    assert len(calls) == 2 * len(attentions)
    assert not any(isinstance(p, CachedContextProcessor) for p in unet.attn_processors.values())
    assert torch.equal(unet(x, t, context).sample, plain[0])


@torch.no_grad()
def test_cached_context_masks_as_the_stock_processor_does(unet, inputs):
    x, t, context = inputs
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
    plain = unet(x, t, context, encoder_attention_mask=mask).sample
    cached = caching_context(unet)(x, t, context, encoder_attention_mask=mask).sample
    assert torch.equal(cached, plain)
    assert not torch.allclose(plain, unet(x, t, context).sample)


@torch.no_grad()
def test_perturbed_attention_is_diffusers_pag_branch(unet, inputs):
    unet = copy.deepcopy(unet).double()  # rounding depends on the batch
    x, t, context = (v if v.dtype == torch.int64 else v.double() for v in inputs)
    ours = perturbing_attention(unet)(x, t, context).sample
    stock = dict(unet.attn_processors)
    pag = PAGIdentitySelfAttnProcessor2_0()
    chosen = {n for n in stock if n.startswith("mid_block") and "attn1" in n}
    unet.set_attn_processor({n: pag if n in chosen else p for n, p in stock.items()})
    doubled = [torch.cat([v, v]) for v in (x, t, context)]
    plain, perturbed = unet(*doubled).sample.chunk(2)
    unet.set_attn_processor(stock)
    torch.testing.assert_close(ours, perturbed, rtol=0, atol=1e-12)
    torch.testing.assert_close(unet(x, t, context).sample, plain, rtol=0, atol=1e-12)
    assert (ours - plain).abs().max() > 1e-4


@torch.no_grad()
def test_perturbed_attention_works_on_cached_context(unet, inputs):
    x, t, context = inputs
    expected = perturbing_attention(unet)(x, t, context).sample
    cached = caching_context(unet)
    cached(x, t, context)
    assert torch.equal(perturbing_attention(cached)(x, t, context).sample, expected)


def test_defaults_are_small_and_attend_on_all_scales_but_the_coarsest():
    unet = build_unet({}, **SHAPE)
    assert 30e6 < parameter_count(unet) < 40e6
    assert unet.config.down_block_types == ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",)


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"block_out_chanels": [32]}, "nearest is 'block_out_channels'"),
        ({"in_channels": 9}, "unet.in_channels follows from the data"),
        ({"down_block_types": ["DownBlock2D"]}, "number of"),
        ({"block_out_channels": [30, 60], "norm_num_groups": 32}, "divisible"),
        (
            {"addition_embed_type": "text", "addition_embed_type_num_heads": 3},
            "16 features do not split into 3 heads",
        ),
        ({"init": "/no/such/unet"}, "cannot load UNet2DConditionModel from '/no/such/unet'"),
        ({"init": "x", "norm_num_groups": 1}, "leave out unet.norm_num_groups"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(kwargs, sentence):
    with pytest.raises(UserError, match=sentence):
        build_unet(kwargs, **SHAPE)


def test_pooled_prompts_have_heads_that_fit_the_prompt():
    for width in (16, 40, 128):
        small = {"block_out_channels": [32, 32], "layers_per_block": 1}
        shape = SHAPE | {"cross_attention_dim": width}
        unet = build_unet(small | {"addition_embed_type": "text"}, **shape)
        x, context = torch.zeros(2, 4, 8, 8), torch.zeros(2, 5, width)
        assert unet(x, 1, context).sample.shape == x.shape


def test_a_trained_unet_is_where_training_starts(unet, tmp_path):
    unet.save_pretrained(tmp_path / "pipeline" / "unet")
    for path in (tmp_path / "pipeline", tmp_path / "pipeline" / "unet"):
        found = build_unet({"init": str(path)}, **SHAPE | {"sample_size": (16, 16)})
        assert found.config.sample_size == 16  # stock pipelines compare it with a number
        weights = found.state_dict()
        assert all(weights[k].equal(v) for k, v in unet.state_dict().items())
    sentence = (
        "has cross_attention_dim 16, and this autoencoder, conditioning and prediction need 32"
    )
    with pytest.raises(UserError, match=sentence):
        build_unet({"init": str(tmp_path / "pipeline")}, **SHAPE | {"cross_attention_dim": 32})
