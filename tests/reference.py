"""diffusers' own sampling loops in float64, as oracles for ours."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
import torch
from torch import Tensor

from ldm.schedulers.spec import Spec

Network = Callable[[Tensor, float], Tensor]  # (x, label) -> F


def network(shape: tuple[int, ...], seed: int = 0, channels: int | None = None) -> Network:
    """A smooth non-linear function of x and of the label, so that a wrong label is seen."""
    generator = torch.Generator().manual_seed(seed)
    channels = channels or shape[1]
    mix = (
        torch.randn(channels, shape[1], generator=generator, dtype=torch.float64) / shape[1] ** 0.5
    )
    bias = torch.randn(channels, *shape[2:], generator=generator, dtype=torch.float64)

    def f(x: Tensor, label: float) -> Tensor:
        mixed = torch.einsum("oc,bc...->bo...", mix.to(x), x)
        return (mixed + label / 500 * bias.to(x)).tanh()

    return f


def draws(shape: tuple[int, ...], count: int, seed: int = 1) -> list[Tensor]:
    """The standard normal draws that both loops use, one for each step."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def exact_tables(scheduler: Any, spec: Spec) -> None:
    """Give a diffusers scheduler our float64 table in place of its float32 one."""
    bar = spec.schedule.alphas_cumprod.clone()
    scheduler.alphas_cumprod = bar
    scheduler.alphas = bar / torch.cat([bar.new_ones(1), bar[:-1]])
    scheduler.betas = 1 - scheduler.alphas
    if hasattr(scheduler, "final_alpha_cumprod"):
        one = scheduler.config.set_alpha_to_one
        scheduler.final_alpha_cumprod = bar.new_ones(()) if one else bar[0]
    if hasattr(scheduler, "one"):
        scheduler.one = bar.new_ones(())


class _Doubled:
    """A module, with float64 for its float32."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, "float64" if name == "float32" else name)


@contextmanager
def in_float64(config: dict[str, Any], steps: int) -> Iterator[None]:
    """Let diffusers' class of that config compute in float64 what it computes in float32.

    Labels that are whole numbers stay those of float32, whose rounding decides between two.
    """
    made = getattr(diffusers, config["_class_name"])
    module, single = sys.modules[made.__module__], made.from_config(dict(config))
    single.set_timesteps(steps)
    set_timesteps = made.set_timesteps

    def labelled(self: Any, *args: Any, **options: Any) -> None:
        set_timesteps(self, *args, **options)
        if not single.timesteps.is_floating_point():
            self.timesteps = single.timesteps

    torch.set_default_dtype(torch.float64)
    try:
        with (
            patch.object(module, "torch", _Doubled(torch)),
            patch.object(module, "np", _Doubled(np), create=True),
            patch.object(made, "set_timesteps", labelled),
        ):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def diffusers_loop(
    config: dict[str, Any], net: Network, noise: Tensor, steps: int, z: list[Tensor], **step: Any
) -> Tensor:
    """The loop of a stock pipeline: scale, predict, step; `z[i]` is the draw of step i."""
    config = dict(config)
    scheduler = getattr(diffusers, config.pop("_class_name")).from_config(config)
    spec = Spec.from_diffusers({"_class_name": type(scheduler).__name__, **config})
    if hasattr(spec.schedule, "alphas_cumprod") and not config.get("use_flow_sigmas"):
        exact_tables(scheduler, spec)
    scheduler.set_timesteps(steps)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for i, t in enumerate(scheduler.timesteps):
        if type(scheduler).__name__ == "LCMScheduler":
            t = t.item()  # its boundary condition is float32 for a tensor
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        out = net(scaled, float(t))
        with drawing(scheduler, z[i] if i < len(z) else None):
            x = scheduler.step(out, t, x, return_dict=False, **step)[0]
    return x


def drawing(scheduler: Any, z: Tensor | None) -> AbstractContextManager[Any]:
    """Let every draw that this scheduler makes be z."""
    module = sys.modules[type(scheduler).__module__]
    if z is None or not hasattr(module, "randn_tensor"):
        return nullcontext()
    return patch.object(module, "randn_tensor", lambda *_, **__: z)


def our_loop(spec: Spec, net: Network, noise: Tensor, steps: int, z: list[Tensor], **options: Any):
    """The same samples by our Spec."""

    def call(x: Tensor, level: Any) -> Tensor:
        return net(x, float(spec.contract.label(level)))

    x = spec.initial(noise)
    *_, (x, _, _) = spec.sample(call, x, steps, noise=lambda i: z[i], **options)
    return x
