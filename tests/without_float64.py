"""A device without float64, as Apple's GPUs are, for machines that have none.

Within `device_without_float64()` whatever is sent to the "meta" device computes on the CPU behind
its back, and the device keeps three rules of the real one: nothing on it is float64 or complex128,
what is on it does not mix with tensors of the CPU (but for those of a single number), and what it
gives back comes back by `.cpu()`, `.item()` or the like.
"""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
_aten = torch.ops.aten
_BACK = (_aten._local_scalar_dense.default, _aten.equal.default, _aten.is_nonzero.default)


class NoFloat64(TypeError):
    pass


class There(torch.Tensor):
    """A tensor on the device; `here` is what it holds."""

    @staticmethod
    def __new__(cls, here):
        if here.dtype in (torch.float64, torch.complex128):
            raise NoFloat64(f"{here.dtype} {tuple(here.shape)} reached a device that has none")
        return torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            here.stride(),
            here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
            requires_grad=here.requires_grad,
        )

    def __init__(self, here):
        self.here = here

    def __repr__(self):
        return f"There({self.here})"

    def __tensor_flatten__(self):
        return ["here"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return There(inner["here"])

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.__getitem__ and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]))  # which would be made there, out of our sight
        with torch._C.DisableTorchFunctionSubclass():  # what comes back from there is no There
            return func(*args, **kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    flat, _ = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, There)]
    device = kwargs.get("device")
    target = DEVICE if device is None and there else torch.device(device or "cpu")
    inner_args, inner_kwargs = tree_map(
        lambda x: x.here if isinstance(x, There) else x, (args, kwargs)
    )
    if device is not None:
        inner_kwargs = {**inner_kwargs, "device": torch.device("cpu")}
    crossing = func in (_aten._to_copy.default, _aten.copy_.default, _aten.index.Tensor)
    if there and not crossing:
        strangers = [x for x in tensors if not isinstance(x, There) and x.ndim]
        assert not strangers, f"{func} mixes the device with the CPU: {strangers[0].shape}"
    out = func(*inner_args, **inner_kwargs)
    if func is _aten.copy_.default:
        return args[0]
    if target.type != "meta" or func in _BACK:
        return out
    out = tree_map(lambda x: There(x) if isinstance(x, torch.Tensor) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if there else out


class _Made(TorchDispatchMode):
    """What is made on the device, or sent to it, out of tensors of the CPU alone."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("device") is not None and torch.device(kwargs["device"]) == DEVICE:
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def device_without_float64():
    with _Made():
        yield DEVICE
