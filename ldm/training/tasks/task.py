"""What a training minimises, whatever it is: the port between a loop and its loss."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class Task(Protocol):
    """The loss of a network on a batch, and what must be remembered from step to step.

    `network` is the trained module as Accelerate wraps it, so that gradients are averaged over the
    processes; a task that calls other networks too, such as a teacher, holds those itself.
    """

    def __call__(self, network: nn.Module, batch: Any) -> Tensor:
        """Losses (B,) of a micro-batch, whose mean is minimised."""
        ...

    @property
    def memory(self) -> Mapping[str, nn.Module]:
        """What a checkpoint must hold besides the trained module, by the names it has there."""
        ...

    def remember(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Called after each optimizer step; `gather` stacks tables of all processes."""
        ...
