"""How networks are called where nothing is learnt."""

import gc
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


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """Afterwards the memory of what the block made and dropped is free.

    Figures, and the views of networks that a pipeline's call works on, refer to themselves. Python
    frees such circles when it has made enough new objects, which a training loop hardly ever does:
    each evaluation would leave its pictures and latents behind.
    """
    try:
        yield
    finally:
        gc.collect()
