"""A grown U-Net is the function that it was, and every layer of it learns."""

import pytest
import torch
from diffusers.models import UNet2DConditionModel

from ldm.core.errors import UserError
from ldm.models.growth import grown
from ldm.models.unet import build_unet, parameter_count

SHAPE = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 16}
SMALL = {"block_out_channels": [32, 64, 64], "norm_num_groups": 8}


def inputs():
    g = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 5, 16, generator=g)
    return x, torch.tensor([500, 20]), context


def unet_of(**kwargs):
    torch.manual_seed(0)
    return build_unet(SMALL | kwargs, **SHAPE).eval()


@pytest.mark.parametrize(
    ("before", "after"),
    [(1, 2), (1, [4, 1, 1]), (1, [2, 3, 2]), ([2, 1, 1], [3, 2, 2]), (2, [4, 2, 3])],
)
@pytest.mark.parametrize("kind", [{}, {"addition_embed_type": "text"}])
@torch.no_grad()
def test_it_begins_as_the_same_function(before, after, kind):
    unet = unet_of(layers_per_block=before, resnet_time_scale_shift="scale_shift", **kind)
    deeper = grown(unet, after).eval()
    assert parameter_count(deeper) > parameter_count(unet)
    difference = deeper(*inputs()).sample - unet(*inputs()).sample
    assert difference.abs().max() <= 1e-6  # a skip times zero is added to a sum


def test_every_new_layer_is_reached_by_the_gradient_and_then_learns_as_a_whole():
    unet = unet_of(layers_per_block=1)
    deeper = grown(unet, [3, 2, 1])
    new = set(dict(deeper.named_parameters())) - set(dict(unet.named_parameters()))
    optimizer = torch.optim.SGD(deeper.parameters(), lr=1e-2)
    for _ in range(2):  # the first step opens the last projections, the second what is before
        optimizer.zero_grad()
        deeper(*inputs()).sample.square().mean().backward()
        optimizer.step()
    still = [n for n, p in deeper.named_parameters() if n in new and not p.grad.any()]
    assert new and not still


def test_growing_by_nothing_changes_nothing_and_the_result_is_a_stock_unet(tmp_path):
    unet = unet_of(layers_per_block=1)
    same = grown(unet, 1).state_dict()
    assert all(same[name].equal(tensor) for name, tensor in unet.state_dict().items())
    grown(unet, [2, 1, 1]).save_pretrained(tmp_path)
    assert list(UNet2DConditionModel.from_pretrained(tmp_path).config.layers_per_block) == [2, 1, 1]


@pytest.mark.parametrize(
    ("kwargs", "after", "sentence"),
    [
        ({"layers_per_block": 2}, 1, r"can only grow, and this one has \[2, 2, 2\]"),
        ({"layers_per_block": [2, 1, 1]}, [1, 2, 2], r"and this one has \[2, 1, 1\]"),
        ({}, ["x", 3, 3], r"=\['x', 3, 3\]: a trained U-Net can only grow"),
        ({}, [3, 3], r"=\[3, 3\]: a trained U-Net can only grow"),
        ({"down_block_types": ["AttnDownBlock2D"] * 3}, 3, "with AttnDownBlock2D cannot grow"),
    ],
)
def test_what_cannot_grow_so_gets_a_sentence(kwargs, after, sentence):
    with pytest.raises(UserError, match=sentence):
        grown(unet_of(**kwargs), after)


def test_a_trained_one_grows_where_training_starts(tmp_path):
    unet = unet_of(layers_per_block=1)
    unet.save_pretrained(tmp_path / "unet")
    found = build_unet({"init": str(tmp_path), "layers_per_block": [2, 1, 1]}, **SHAPE)
    with torch.no_grad():
        assert (found.eval()(*inputs()).sample - unet(*inputs()).sample).abs().max() <= 1e-6
    assert found.config.layers_per_block == (2, 1, 1)
