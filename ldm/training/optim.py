"""The optimiser, its learning rate by step, a step that survives a bad batch; gradients of many."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from ldm.config import TrainConfig
from ldm.core.errors import UserError
from ldm.training.muon import MuonAdamW


class Diverged(UserError):
    """Too many steps in a row had a non-finite loss or gradient."""

    status = 1


CURVE_RATE = 10.0  # on a learned schedule: few parameters, each with a say at every level
THIN = 32  # a matrix thinner than this has too few directions to be worth equalising


def optimizer_of(
    module: nn.Module, config: TrainConfig, curve: Sequence[nn.Parameter] = ()
) -> Optimizer:
    """What `train.optimizer` names, for all that `module` trains.

    Muon takes the weights of hidden layers; AdamW takes the embeddings, the layers with fewer than
    THIN inputs or outputs (a network's first and last), and all that is no matrix. A learned
    schedule's `curve` has AdamW too, at a rate of its own.
    """
    apart = {id(p) for p in curve}
    trained = [p for p in module.parameters() if p.requires_grad and id(p) not in apart]
    if config.optimizer == "adamw":
        return adamw(trained, config, curve)
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    hidden = [p for p in trained if p.ndim > 1 and min(p.shape[:2]) >= THIN and id(p) not in tables]
    apart = {id(p) for p in hidden}
    groups = _decay_groups([p for p in trained if id(p) not in apart], config, curve)
    return MuonAdamW(hidden, groups, config.weight_decay, **_options(config))


def adamw(
    parameters: Iterable[nn.Parameter], config: TrainConfig, curve: Sequence[nn.Parameter] = ()
) -> torch.optim.AdamW:
    """Fused AdamW; matrices decay, vectors (biases, norms' gains) do not.

    A learned schedule's `curve` has a rate of its own, CURVE_RATE times the networks'.
    """
    return torch.optim.AdamW(_decay_groups(parameters, config, curve), **_options(config))


def _decay_groups(
    parameters: Iterable[nn.Parameter], config: TrainConfig, curve: Sequence[nn.Parameter]
) -> list[dict[str, Any]]:
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        {"params": list(curve), "weight_decay": 0.0, "factor": CURVE_RATE},
    ]
    return [g for g in groups if g["params"]]


def _options(config: TrainConfig) -> dict[str, Any]:
    return {
        "lr": config.learning_rate,
        "betas": config.betas,
        "eps": config.epsilon,
        "fused": True,
    }


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of step `step` (from 0): linear warm-up, then constant or cosine to zero."""
    warm = min(1.0, (step + 1) / max(config.warmup, 1))
    if config.decay == "constant":
        return config.learning_rate * warm
    progress = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0), 1)))


class GuardedStep:
    """Clip the gradient, step, and clear it; skip where the loss or the gradient is not finite.

    The loss given must be the mean over all processes, as the gradient is: then all decide alike.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        optimizer: Optimizer,
        parameters: Iterable[nn.Parameter],
        clip: float,
        patience: int = 10,
    ) -> None:
        self.accelerator, self.optimizer = accelerator, optimizer
        self.clip = clip or math.inf
        self.parameters = [p for p in parameters if p.requires_grad]
        self.patience, self.skipped_in_a_row, self.skipped = patience, 0, 0

    def __call__(self, loss: float, rate: float) -> float:
        """One step at learning rate `rate`; returns the gradient's norm before clipping.

        Raises Diverged after `patience` skipped steps in a row.
        """
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, self.clip))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        finite = math.isfinite(norm) and math.isfinite(loss)
        if finite or self.accelerator.scaler is not None:  # the fp16 scaler skips by itself
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.patience:
            raise Diverged(
                f"the loss or its gradient was not finite in {self.patience} steps in a row; the "
                "last checkpoint is whole: lower the learning_rate, or use "
                "mixed_precision=bf16 or no"
            )
        return norm


@torch.no_grad()
def average_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes.

    An adversarial step takes gradients of one network from two losses, of two networks from one
    graph, and at one layer alone; what DDP averages in its hooks then depends on their order. One
    exchange after the last backward of the step is exact, whatever came before.
    """
    if not accelerator.use_distributed:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1).float() for g in gradients])
    mean = accelerator.reduce(flat, "mean")
    parts = mean.split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
