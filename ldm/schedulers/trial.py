"""A scheduler config is believed when diffusers has sampled with it, and made what we make.

The network is the exact denoiser of two blurred points, in closed form, so that rounding is not
amplified and a wrong level, label or solver is seen; the tensors are tiny, in float64.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from unittest.mock import patch

import torch
from torch import Tensor

from ldm.core.errors import UserError
from ldm.diffusion.contract import Contract
from ldm.diffusion.plane import Level, State, fit
from ldm.diffusion.schedules import Schedule, interpolate, positions

ERROR = 5e-4  # of a sample's size; diffusers' float32 tables alone make up to 3e-4
LABELS = 1.5  # entries of the table: float32 rounds to the neighbour, and not further


class Process(Protocol):
    """What a Spec has of this."""

    @property
    def learned_variance(self) -> bool: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def contract(self) -> Contract: ...
    def levels(self, num_inference_steps: int) -> list[Level]: ...
    def initial(self, noise: Tensor) -> Tensor: ...
    def sample(
        self, network: Any, x: Tensor, num_inference_steps: int, *, noise: Any = None
    ) -> Iterator[State]: ...


Told = Callable[[Tensor, float], Tensor]  # (x as the network gets it, label) -> F
SHAPE = (2, 1, 2, 2)
POINT, BLUR = 0.7, 0.3  # the data: ±0.7 in each place, with this deviation
STEPS = (1, 2, 10, 25)  # tried, and the model's own number


def exact_network(schedule: Schedule, contract: Contract, learned: bool = False) -> Told:
    """What a perfect network for that schedule would say of the data, by label alone."""
    times = torch.linspace(1 / positions(schedule), 1, 20_001, dtype=torch.float64)
    labels, prediction = contract.label(schedule.level(times)).detach(), contract.prediction

    def network(x: Tensor, label: float) -> Tensor:
        t = interpolate(torch.tensor(label, dtype=torch.float64), labels, times)
        level = Level(*(c.detach() for c in schedule.level(t)))
        x = x / fit(prediction.c_in(level), x)
        alpha, sigma = float(level.alpha), float(level.sigma)
        var = (alpha * BLUR) ** 2 + sigma**2
        side = POINT * (alpha * POINT / var * x).tanh()
        x0 = (alpha * BLUR**2 * x + sigma**2 * side) / var
        eps = sigma * (x - alpha * side) / var
        p, q = prediction.direction(level)
        out = fit(p, x) * x0 + fit(q, x) * eps
        return torch.cat([out, (3 * x).tanh()], dim=1) if learned else out

    return network


def standard_draws(count: int, seed: int = 0) -> list[Tensor]:
    """Standard normal draws of SHAPE in float64: the first noise, and one for each step."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


@contextmanager
def drawing(scheduler: Any, draws: Iterable[Tensor]) -> Iterator[None]:
    """Let the draws that a diffusers scheduler makes be these, one after the other."""
    module, one_by_one = sys.modules[type(scheduler).__module__], iter(draws)
    if not hasattr(module, "randn_tensor"):
        yield
        return
    with patch.object(module, "randn_tensor", lambda *_, **__: next(one_by_one)):
        yield


def stock_samples(
    config: Mapping[str, Any], network: Told, noise: Tensor, steps: int, draws: list[Tensor]
) -> Tensor:
    """x as StableDiffusionPipeline's loop makes it of that config: scale, predict, step."""
    import diffusers

    options = {k: v for k, v in config.items() if k != "_class_name"}
    scheduler = getattr(diffusers, config["_class_name"]).from_config(options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, at what diffusers does with its tensors
        scheduler.set_timesteps(steps)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for i, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        with drawing(scheduler, draws[min(i, len(draws) - 1) :]):
            x = scheduler.step(network(scaled, float(t)), t, x, return_dict=False)[0]
    return x


def our_samples(
    spec: Process, network: Told, noise: Tensor, steps: int, draws: list[Tensor]
) -> Tensor:
    """The same samples by our Spec."""

    def call(x: Tensor, level: Level) -> Tensor:
        return network(x, float(spec.contract.label(level)))

    *_, end = spec.sample(call, spec.initial(noise), steps, noise=lambda i: draws[i])
    return end.x


def listening(network: Told, heard: list[float]) -> Told:
    """The network, with every label it is told put down."""

    def call(x: Tensor, label: float) -> Tensor:
        heard.append(label)
        return network(x, label)

    return call


def difference(
    spec: Process, config: Mapping[str, Any], steps: int, seed: int = 0
) -> tuple[float, float, float]:
    """How far diffusers' samples are from ours, of their size; its first label; any of them.

    Labels are counted in entries of the schedule's table, and are inf apart where the network is
    called another number of times.
    """
    network = exact_network(spec.schedule, spec.contract, spec.learned_variance)
    noise, *draws = standard_draws(steps + 1, seed)
    told: tuple[list[float], list[float]] = ([], [])
    ours = our_samples(spec, listening(network, told[0]), noise, steps, draws)
    theirs = stock_samples(config, listening(network, told[1]), noise, steps, draws)
    error = (ours - theirs).abs().max().item() / max(1.0, ours.abs().max().item())
    if len(told[0]) != len(told[1]):
        return error, math.inf, math.inf
    steps = positions(spec.schedule)
    ends = spec.schedule.level(torch.tensor([1 / steps, 1.0], dtype=torch.float64))
    first, last = spec.contract.label(ends)
    entry = float((last - first).abs()) / (steps - 1)
    apart = [abs(a - b) / entry for a, b in zip(*told, strict=True)]
    return error, apart[0], max(apart)


def tried(spec: Process, config: Mapping[str, Any], own_steps: int | None = None) -> None:
    """Raise UserError where diffusers, with this config, samples otherwise than `spec` does.

    At a few numbers of steps, `own_steps` among them.
    """
    for steps in dict.fromkeys([*STEPS, *([own_steps] if own_steps else [])]):
        try:
            spec.levels(steps)
        except UserError:
            continue  # nor are they taken here
        try:
            error, first, label = difference(spec, config, steps)
        except (ArithmeticError, LookupError, NotImplementedError, ValueError) as failure:
            what = f"fails ({type(failure).__name__})"
        else:
            if error <= ERROR and first <= 0.5 and label <= LABELS:
                continue
            what = "paints another picture"
            if first > 0.5 or label > LABELS:
                what = f"tells the network of levels up to {label:.1f} entries of the table away"
            what = what if math.isfinite(error) else "ends in NaN"
            what = what if math.isfinite(label) else "takes another number of steps"
        count = "1 step" if steps == 1 else f"{steps} steps"
        raise UserError(
            f"{config['_class_name']} of diffusers {what} at {count}, so this model cannot be "
            "exported as it is: take another grid, another sampler or another number of steps"
        )
