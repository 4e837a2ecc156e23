"""Perceptual distances: against a formula, in the right order, with gradients that arrive."""

import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

from autoencoder.loss.perceptual import FeatureDistance, GradientDistance, build_perceptual, ssim
from ldm.core.errors import UserError
from ldm.data.drawn import draw, truth


@pytest.fixture(scope="module")
def flowers() -> torch.Tensor:
    pictures = np.stack([np.asarray(draw(truth(i), 32)) for i in range(4)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture(scope="module", params=["resnet", "vit"])
def network_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    if request.param == "resnet":
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
        ResNetModel(config).save_pretrained(folder)
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = ViTConfig(image_size=32, patch_size=8, intermediate_size=32, **sizes)
        ViTModel(config).save_pretrained(folder)
    return folder


def test_ssim_is_the_formula_of_wang_et_al(flowers):
    x, y = flowers.double(), (0.7 * flowers + 0.1).double()
    c1, c2 = 0.01**2, 0.03**2
    values = []
    planes = (((v + 1) / 2).numpy().reshape(-1, 32, 32) for v in (x, y))
    for a, b in zip(*planes, strict=True):

        def mean(v: np.ndarray) -> np.ndarray:
            return uniform_filter(v, 7)[3:-3, 3:-3]

        ma, mb = mean(a), mean(b)
        va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        value = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
        values.append(value.mean())
    expected = torch.tensor(np.array(values).reshape(4, 3).mean(1))
    torch.testing.assert_close(ssim(x, y), expected)
    torch.testing.assert_close(ssim(x, x), torch.ones(4, dtype=torch.float64))


def test_blur_costs_more_than_a_shift_of_the_same_mean_error(flowers):
    blurred = F.avg_pool2d(F.pad(flowers, (2, 2, 2, 2), mode="replicate"), 5, 1)
    shift = (blurred - flowers).abs().mean((1, 2, 3), keepdim=True)
    distance = GradientDistance()
    assert (distance(blurred, flowers) > 2 * distance(flowers + shift, flowers)).all()


def test_gradients_reach_the_image_and_never_the_network(flowers, network_folder):
    for name in ("gradients", str(network_folder)):
        distance, notice = build_perceptual(name)
        assert notice is None
        x = (0.9 * flowers).requires_grad_()
        loss = distance(x, flowers)
        assert loss.shape == (4,) and bool((loss > 0).all())
        loss.sum().backward()
        assert bool((x.grad.flatten(1).abs().sum(1) > 0).all())
        assert all(p.grad is None for p in distance.parameters())
        torch.testing.assert_close(distance(flowers, flowers), torch.zeros(4))


def test_descending_a_feature_distance_restores_the_image(flowers, network_folder):
    distance = FeatureDistance.load(network_folder)
    x = (
        flowers + 0.3 * torch.randn(flowers.shape, generator=torch.manual_seed(0))
    ).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.02)
    before = distance(x, flowers).mean().item()
    for _ in range(30):
        optimizer.zero_grad()
        loss = distance(x, flowers).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * before


@pytest.mark.skipif(importlib.util.find_spec("lpips") is not None, reason="lpips is installed")
def test_without_lpips_the_gradients_serve_and_it_is_said():
    distance, notice = build_perceptual("lpips")
    assert isinstance(distance, GradientDistance)
    assert "pip install lpips" in notice


def test_a_folder_without_a_network_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither 'gradients', 'lpips' nor a folder"):
        build_perceptual(str(tmp_path))
