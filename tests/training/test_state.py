"""A checkpoint gives an optimizer back its state, bit for bit, in any memory layout."""

import copy

import torch
from torch import nn

from ldm.training.state import load_optimizer_tensors, optimizer_tensors


def test_a_restored_optimizer_steps_as_the_original_does_in_channels_last():
    torch.manual_seed(0)
    network = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    x = torch.randn(2, 4, 6, 6)

    def step(network, optimizer):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()

    step(network, optimizer)
    twin = copy.deepcopy(network)
    stored = {
        k: v.clone(memory_format=torch.contiguous_format)
        for k, v in optimizer_tensors(optimizer).items()
    }
    restored = torch.optim.AdamW(twin.parameters(), fused=True)
    load_optimizer_tensors(restored, stored)
    for _ in range(2):
        step(network, optimizer)
        step(twin, restored)
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
