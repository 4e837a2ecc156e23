"""The exponential moving average of the weights, kept in float32."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Average of the trained parameters of a module.

    The decay warms up as (1 + n) / (10 + n) after n updates, so that early averages are not of the
    initialisation. Float32, because at decay 0.9999 a bfloat16 average never moves.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        named = {k: p for k, p in module.named_parameters() if p.requires_grad}
        self.decay, self.names, self.parameters = decay, list(named), list(named.values())
        self.average = [p.detach().float().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Fold in the weights after `step` updates."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        current = [p.detach().float() for p in self.parameters]
        torch._foreach_lerp_(self.average, current, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the module computes with the average."""
        own = [p.detach().clone() for p in self.parameters]
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.average, strict=True))

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, average in zip(self.names, self.average, strict=True):
            average.copy_(state[name])
