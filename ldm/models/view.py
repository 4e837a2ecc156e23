"""A network seen anew: the same weights, with modes, hooks and attention processors of its own."""

from copy import copy
from typing import TypeVar, cast

from torch import nn

Module = TypeVar("Module", bound=nn.Module)
# what a module keeps its hooks in: a copy keeps those it has, and nothing added to it goes back
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def view(network: Module) -> Module:
    """`network` in evaluation mode, as a tree of its own around the same parameters and buffers.

    Whatever is set in it, a mode or an attention processor, is not seen in `network`, nor in
    another view; so each call that changes a network changes one of these, several threads may use
    one network at a time, and nothing is left behind. Weights that change in place change in all.
    A compiled network is seen as it was before: its compiled code would lead back to itself.
    """
    seen: dict[int, nn.Module] = {}  # a module may stand at two places, such as tied embeddings

    def anew(module: nn.Module) -> nn.Module:
        if id(module) not in seen:
            seen[id(module)] = other = copy(module)
            other._modules = {k: m if m is None else anew(m) for k, m in module._modules.items()}
            for hooks in _HOOKS:
                setattr(other, hooks, copy(getattr(module, hooks)))
            other.training = False
        return seen[id(module)]

    return cast(Module, anew(getattr(network, "_orig_mod", network)))
