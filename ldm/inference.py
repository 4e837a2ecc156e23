"""How networks are called where nothing is learnt."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluating(*modules: torch.nn.Module) -> Iterator[None]:
    """Without gradients and with the modules in evaluation mode; then as they were."""
    were_training = [m for m in modules if m.training]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in were_training:
            module.train()
