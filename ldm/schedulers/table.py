"""What the classes with a table of β share: its entries, the levels visited, the clipping."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ldm.diffusion.plane import betas_of
from ldm.diffusion.schedules import Schedule, positions
from ldm.schedulers.floor import ZERO_SNR_FLOOR
from ldm.schedulers.keys import Reader

Options = dict[str, Any]

# classes whose spacings are those of a table, and those whose sample is x/α
_TABLE = (
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
    "LCMScheduler",
    "TCDScheduler",
)
_SIGMA = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSDEScheduler",
)
_FLOORS = "DPMSolverMultistepScheduler"  # karras on cosine, where the others round
PREDICTIONS = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "v",
    "flow_prediction": "flow",
}
BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_SIGMAS = {
    "karras_sigmas": "karras",
    "lu_lambdas": "exponential",
    "exponential_sigmas": "exponential",
    "beta_sigmas": "beta",
}
CLIPPING = ("thresholding", "dynamic_thresholding_ratio", "sample_max_value")


def tabulated(schedule: Schedule) -> Tensor | None:
    """β (N,) of the table with a schedule's levels at t = (n+1)/N as entries; None: no VP path."""
    n = positions(schedule)
    level = schedule.level(torch.arange(1, n + 1, dtype=torch.float64) / n)
    bar = level.alpha.square()
    if not torch.allclose(bar + level.sigma.square(), torch.ones_like(bar)):
        return None
    return betas_of(bar)


def read_table(read: Reader) -> Options:
    """What the classes with a table of β share."""
    spaced = read("timestep_spacing", "leading", "trailing", "linspace", default="linspace")
    schedule, schedule_args = _read_betas(read)
    chosen = [grid for key, grid in _SIGMAS.items() if read(f"use_{key}")]
    between = spaced
    if read("interpolation_type", "linear", "log_linear", default="linear") == "log_linear":
        between = "linspace" if chosen else spaced  # the ends of the whole table
        chosen = chosen or ["log_linear"]
    if len(chosen) + bool(read.values.get("use_flow_sigmas")) > 1:
        raise read.refusal("use_flow_sigmas", "is one way too many to choose σ")
    wanted = (chosen[0], between) if chosen else spaced
    offset = read("steps_offset", default=0)
    grid, grid_args = spacing(
        read.name, wanted, offset, schedule, read.values.get("use_lu_lambdas")
    )
    if grid_args.get("told") == "floor":
        options = {k: v for k, v in read.values.items() if not k.startswith("_")}
        first = first_label(read.name, options)
        grid_args |= {"first": first} if first != read.values["num_train_timesteps"] - 1 else {}
    ends = grid != "log_linear" and read("set_alpha_to_one", default=True)
    clean = read("final_sigmas_type", "zero", "sigma_min", default="zero") == "zero" and ends
    known = [p for p in PREDICTIONS if p != "flow_prediction" or read.values.get("use_flow_sigmas")]
    clip, limit = read("clip_sample"), read("clip_sample_range", default=1.0)
    thresholding, *threshold = (read(key) for key in CLIPPING)
    return {
        "schedule_name": schedule,
        "schedule_args": schedule_args,
        "prediction_name": PREDICTIONS[read("prediction_type", *known)],
        "grid": grid,
        "grid_args": grid_args,
        "clip": limit if clip and not thresholding else None,
        "thresholding": tuple(threshold) if thresholding else None,
        "final": "clean" if clean else "ratio" if read.name in _SIGMA else "first",
        "start": start(read.name, spaced),
    }


def first_label(class_name: str, options: Mapping[str, Any]) -> int:
    """What a class tells the network first: float32 decides between two entries."""
    import diffusers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, at what diffusers does with its tensors
        made = getattr(diffusers, class_name)(**options)
        made.set_timesteps(2)
    return int(made.timesteps[0])


def _read_betas(read: Reader) -> tuple[str, Options]:
    """The table of β: its schedule's name and arguments."""
    names = BETAS | ({"sigmoid": "sigmoid"} if read.name.startswith("DDPM") else {})
    names |= {"exp": "linear"} if read.name.startswith("Heun") else {}
    name = names[read("beta_schedule", *names)]
    bounds = {"beta_start": read("beta_start"), "beta_end": read("beta_end")}
    options = {"steps": read("num_train_timesteps")}
    if read("beta_schedule") == "exp":  # ᾱ = e^(-12 t), whose β are all one
        bounds = dict.fromkeys(bounds, -math.expm1(-12 / options["steps"]))
    if (betas := read("trained_betas")) is not None:
        name, options = "table", {"betas": [float(b) for b in betas]}
    elif name != "cosine":
        options |= bounds
    if read("rescale_betas_zero_snr"):
        options["zero_snr"] = True
        if read.name not in _TABLE:
            options["floor"] = ZERO_SNR_FLOOR
    return name, options


def spacing(
    class_name: str,
    name: str | tuple[str, str],
    offset: int,
    schedule: str = "",
    lu: bool | None = False,
) -> tuple[str, Options]:
    """The grid, and its options, that a class means by a spacing, or by (karras, spacing)."""
    multistep = class_name not in _TABLE + _SIGMA
    if isinstance(name, tuple):
        grid, between = name
        rounds = grid == "karras" and (schedule != "cosine" or class_name != _FLOORS)
        if class_name not in _SIGMA:
            rounds = rounds or (bool(lu) and schedule != "cosine")
            return grid, {"told": "round" if rounds else "floor"}
        told = {"told": "round"} if grid == "karras" and class_name.startswith("KDPM2") else {}
        shifted = {"offset": offset} if between == "leading" and offset else {}
        return grid, {"between": between, **shifted, **told} if between != "linspace" else told
    if name == "linspace" and class_name in _SIGMA:
        return "interpolated", {}
    options = {"offset": offset} if name == "leading" and offset else {}
    if multistep and name in ("leading", "linspace"):
        options["extra"] = 1
    return name, options


def start(class_name: str, name: str) -> str:
    """The standard deviation of the first x that a class means; the sample of some is x/α."""
    return "sigma" if class_name in _SIGMA and name != "leading" else "one"
