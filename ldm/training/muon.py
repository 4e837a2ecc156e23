"""Muon for the matrices of a network and AdamW for all else, as one optimizer."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)  # chosen by Jordan for the slope at 0, not for the limit
ROUNDS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U Vᵀ of a matrix U S Vᵀ (m, n), in bfloat16: large singular values come near 1.

    Newton-Schulz iteration with a quintic polynomial (Jordan et al. 2024, "Muon: an optimizer for
    hidden layers in neural networks"): those over a hundredth of the matrix' norm end between 0.68
    and 1.2, and smaller ones grow up to 485-fold.
    """
    a, b, c = QUINTIC
    x = matrix.bfloat16()
    tall = x.size(0) > x.size(1)
    x = x.mT if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonAdamW(Optimizer):
    """Each step of a matrix is its Nesterov momentum with its singular values made about equal.

    A convolution's kernel counts as the matrix (outputs, inputs · k · k). Steps have the size of
    AdamW's, so its learning rate and weight decay fit (Liu et al. 2025, "Muon is scalable for LLM
    training", eq. 4). `groups` are those of AdamW for all other parameters.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        groups: Sequence[dict[str, Any]],
        weight_decay: float,
        **options: Any,
    ) -> None:
        self._adamw = AdamW(list(groups), **options)
        first = {"params": list(matrices), "weight_decay": weight_decay}
        super().__init__([first, *self._adamw.param_groups], {"lr": options["lr"]})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step along the gradients as they are; parameters without one stay."""
        matrices, *others = self.param_groups
        self._adamw.param_groups, self._adamw.state = others, self.state  # a resume replaces them
        self._adamw.step()
        rate = matrices["lr"]
        for p in matrices["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p.grad)
            momentum = state["momentum"].lerp_(p.grad, 1 - MOMENTUM)
            ahead = p.grad.lerp(momentum, MOMENTUM).flatten(1)
            p.mul_(1 - rate * matrices["weight_decay"])
            size = 0.2 * math.sqrt(max(ahead.shape))
            p.add_(orthogonalised(ahead).view_as(p), alpha=-rate * size)
