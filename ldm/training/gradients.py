"""Gradients averaged over processes once a step, for losses that DDP's hooks do not fit."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import nn


@torch.no_grad()
def average_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes.

    An adversarial step takes gradients of one network from two losses, of two networks from one
    graph, and at one layer alone; what DDP averages in its hooks then depends on their order. One
    exchange after the last backward of the step is exact, whatever came before.
    """
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1).float() for g in gradients])
    mean = accelerator.reduce(flat, "mean")
    parts = mean.split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
