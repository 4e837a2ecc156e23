"""Muon: against torch's own on matrices, and what is a matrix."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from ldm.config import TrainConfig
from ldm.training.muon import orthogonalised
from ldm.training.optim import optimizer_of
from ldm.training.state import load_optimizer_tensors, optimizer_tensors

CONFIG = TrainConfig(optimizer="muon", learning_rate=0.01, weight_decay=0.1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(64, 32),
        nn.Unflatten(1, (2, 4, 4)),
        nn.Conv2d(2, 48, 3),
        nn.GroupNorm(8, 48),
        nn.Conv2d(48, 40, 2),
        nn.Flatten(),
        nn.Linear(40, 36),
        nn.Linear(36, 5),
    )


def backward(module, step):
    module.zero_grad()
    tokens = torch.arange(step, step + 8)
    (module(tokens) - torch.linspace(-1, 1, 5)).square().mean().backward()


@pytest.mark.parametrize("shape", [(40, 40), (32, 300), (300, 32)])
def test_directions_stay_and_singular_values_come_near_1(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.mT @ orthogonalised(matrix).float() @ v.mT  # diagonal in the matrix's own bases
    values = torch.linalg.svdvals(inside)
    assert values.min() > 0.5 and values.max() < 1.3
    assert (inside - inside.diag().diag()).abs().max() < 0.05


def test_a_matrix_of_zeros_has_no_direction():
    assert orthogonalised(torch.zeros(3, 4)).abs().max() == 0


def test_it_is_torchs_muon_on_hidden_matrices_and_adamw_on_all_else():
    ours, theirs = network(), network()
    optimizer = optimizer_of(ours, CONFIG)
    hidden = [theirs[4].weight, theirs[6].weight]
    flat = [nn.Parameter(p.data.flatten(1)) for p in hidden]  # torch's takes nothing else
    muon = torch.optim.Muon(flat, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    rest = [p for p in theirs.parameters() if all(p is not h for h in hidden)]
    decay = {True: 0.1, False: 0.0}
    groups = [
        {"params": [p for p in rest if (p.ndim > 1) is matrix], "weight_decay": decay[matrix]}
        for matrix in (True, False)
    ]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=CONFIG.betas, fused=True)
    for step in range(5):
        for module in (ours, theirs):
            backward(module, step)
        optimizer.step()
        for p, view in zip(hidden, flat, strict=True):
            view.grad = p.grad.flatten(1)
        muon.step()
        adamw.step()
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine, its)


def test_every_parameter_is_trained_once():
    module = network()
    groups = optimizer_of(module, CONFIG).param_groups
    trained = [id(p) for group in groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in module.parameters())


def test_a_resumed_optimizer_goes_on_bitwise():
    first = network()
    optimizer = optimizer_of(first, CONFIG)
    for step in range(3):
        backward(first, step)
        optimizer.step()
    second = deepcopy(first)
    again = optimizer_of(second, CONFIG)
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer).items()}
    load_optimizer_tensors(again, saved)
    for step in range(3, 6):
        for module, its in ((first, optimizer), (second, again)):
            backward(module, step)
            its.step()
    for mine, its in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_a_parameter_without_a_gradient_stays():
    module = network()
    optimizer = optimizer_of(module, CONFIG)
    before = deepcopy(module.state_dict())
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
