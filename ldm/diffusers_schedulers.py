"""The dialects of diffusers' schedulers: their configs as the fields of a Spec, and back."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from ldm.diffusion.schedules import SCHEDULES, ZERO_SNR_FLOOR, Schedule
from ldm.errors import UserError

Options = dict[str, Any]

_TABLE = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")
_SIGMA = ("EulerDiscreteScheduler", "HeunDiscreteScheduler")  # their sample is x/α
_SAMPLER = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "dpmpp_2m",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
}
_PREDICTIONS = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "v",
    "flow_prediction": "flow",
}
_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "learned_range": "learned",
}
_SPACINGS = ("leading", "trailing", "linspace")


class _Reader:
    """Reads a config key by key, with its class's defaults, and knows which keys nobody read."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        import diffusers

        self.name = config.get("_class_name", "")
        if self.name not in _SAMPLER:
            known = ", ".join(_SAMPLER)
            raise UserError(f"scheduler {self.name!r} is not implemented; there are {known}")
        parameters = inspect.signature(getattr(diffusers, self.name).__init__).parameters
        defaults = {k: p.default for k, p in parameters.items() if k != "self"}
        given = {k: v for k, v in config.items() if k in defaults}  # others mean nothing to it
        self.values = {**defaults, **given}
        self.unread = {k for k, v in given.items() if v != defaults[k]}

    def __call__(self, key: str, *allowed: Any, default: Any = None) -> Any:
        """The value of `key`; `default` where the class has no such key."""
        value = self.values.get(key, default)
        if allowed and value not in allowed:
            raise self.refusal(key)
        self.unread.discard(key)
        return value

    def refusal(self, key: str) -> UserError:
        value = repr(self.values[key])
        return UserError(
            f"{self.name}'s {key}={value[:40]} is not implemented; set it otherwise in the "
            "scheduler config, or use another scheduler"
        )


def spacing(class_name: str, name: str, offset: int) -> tuple[str, Options]:
    """The grid, and its options, that a class means by a spacing's name."""
    options = {"offset": offset} if name == "leading" and offset else {}
    if name == "linspace" and class_name in _SIGMA:
        return "interpolated", {}
    if name != "trailing" and class_name not in _TABLE + _SIGMA:
        options["extra"] = 1
    return name, options


def class_of(sampler: str, flow: bool) -> str:
    """The diffusers class of a sampler; stock pipelines run flows with DPM-Solver's alone."""
    classes = {v: k for k, v in _SAMPLER.items()}
    return classes.get("dpmpp_2m" if flow and sampler == "ddim" else sampler, "DDIMScheduler")


def start(class_name: str, name: str) -> str:
    """The standard deviation of the first x that a class means."""
    return "sigma" if class_name in _SIGMA and name != "leading" else "one"


def read_scheduler(config: Mapping[str, Any]) -> Options:
    """A diffusers scheduler config as the fields of a Spec.

    Raises UserError naming the class, or the first key whose value is not implemented.
    """
    read = _Reader(config)
    name = read.name
    wanted = read("timestep_spacing", *_SPACINGS)
    grid, grid_args = spacing(name, wanted, read("steps_offset"))
    schedule, schedule_args = _read_betas(read)
    sampler, sampler_args = _SAMPLER[name], {}
    prediction = _PREDICTIONS[read("prediction_type", *_PREDICTIONS)]
    if name == "DDPMScheduler":
        variance = _VARIANCES[read("variance_type", *_VARIANCES)]
        sampler_args = {} if variance == "small" else {"variance": variance}
    elif name == "PNDMScheduler":
        read("skip_prk_steps")
        warnings.warn(
            "PNDM is sampled with its nearest here, DPM-Solver++(2M) on the same levels",
            stacklevel=3,
        )
    elif name == "DPMSolverMultistepScheduler":
        sampler, sampler_args = _read_dpm(read)
        if read("use_flow_sigmas"):
            schedule, schedule_args = "flow", {"shift": read("flow_shift")}
            grid, grid_args = "flow", {}
    clean = read("set_alpha_to_one", default=True)
    clean = clean and read("final_sigmas_type", "zero", "sigma_min", default="zero") == "zero"
    clip, limit = read("clip_sample"), read("clip_sample_range", default=1.0)
    quantile, largest = read("dynamic_thresholding_ratio"), read("sample_max_value")
    thresholding = (quantile, largest) if read("thresholding") else None
    for key in sorted(read.unread):
        raise read.refusal(key)
    return {
        "schedule_name": schedule,
        "schedule_args": schedule_args,
        "prediction_name": prediction,
        "sampler": sampler,
        "sampler_args": sampler_args,
        "grid": grid,
        "grid_args": grid_args,
        "clip": limit if clip and not thresholding else None,
        "thresholding": thresholding,
        "learned_variance": sampler_args.get("variance") == "learned",
        "final": "clean" if clean else "first",
        "start": start(name, wanted),
    }


def _read_betas(read: _Reader) -> tuple[str, Options]:
    """The table of β: its schedule's name and arguments."""
    name = _BETAS[read("beta_schedule", *_BETAS)]
    bounds = {"beta_start": read("beta_start"), "beta_end": read("beta_end")}
    options = {"steps": read("num_train_timesteps")}
    if (betas := read("trained_betas")) is not None:
        name, options = "table", {"betas": [float(b) for b in betas]}
    elif name != "cosine":
        options |= bounds
    if read("rescale_betas_zero_snr"):
        options["zero_snr"] = True
        if read.name not in _TABLE:
            options["floor"] = ZERO_SNR_FLOOR
    return name, options


def _read_dpm(read: _Reader) -> tuple[str, Options]:
    """The solver of a DPMSolverMultistepScheduler."""
    read("solver_type", "midpoint")
    read("variance_type", None, "learned_range")
    order = read("solver_order", 1, 2)
    stochastic = read("algorithm_type", "dpmsolver++", "sde-dpmsolver++") != "dpmsolver++"
    lower, euler = read("lower_order_final"), read("euler_at_final")
    if euler and read.values["final_sigmas_type"] != "zero":
        raise read.refusal("euler_at_final")
    if order == 1:
        return "ddim", {"eta": 1.0} if stochastic else {}
    return "dpmpp_2m", {
        **({"eta": 1.0} if stochastic else {}),
        **({} if lower else {"lower_order_final": False}),
    }


def write_scheduler(spec: Options, schedule: Schedule) -> Options:
    """The diffusers config of a Spec's fields; it may say less than they do, so read it back."""
    sampler, grid = spec["sampler"], spec["grid"]
    flow = spec["schedule_name"] == "flow"
    name = class_of(sampler, flow)
    predictions = {v: k for k, v in _PREDICTIONS.items()}
    config: Options = {
        "_class_name": name,
        "prediction_type": predictions.get(spec["prediction_name"], "epsilon"),
        "timestep_spacing": "linspace" if grid == "interpolated" else grid,
        "steps_offset": 1,
        **({} if flow else _write_betas(spec, schedule)),
    }
    if name in _TABLE:
        limit, thresholding = spec["clip"], spec["thresholding"]
        config |= {"clip_sample": limit is not None, "thresholding": thresholding is not None}
        if limit is not None:
            config["clip_sample_range"] = limit
        if thresholding is not None:
            keys = ("dynamic_thresholding_ratio", "sample_max_value")
            config |= dict(zip(keys, thresholding, strict=True))
    if name == "DDPMScheduler":
        variances = {v: k for k, v in reversed(_VARIANCES.items())}
        config["variance_type"] = variances[spec["sampler_args"].get("variance", "small")]
    elif name == "DDIMScheduler":
        config["set_alpha_to_one"] = spec["final"] == "clean"
    elif name == "DPMSolverMultistepScheduler":
        options = spec["sampler_args"]
        config |= {
            "solver_order": 1 if sampler in ("ddim", "euler") else 2,
            "algorithm_type": "sde-dpmsolver++" if options.get("eta") == 1 else "dpmsolver++",
            "lower_order_final": options.get("lower_order_final", True),
        }
        if flow:
            shift = float(spec["schedule_args"].get("shift", 1.0))
            config |= {"use_flow_sigmas": True, "flow_shift": shift, "timestep_spacing": "linspace"}
    if name not in _TABLE:
        config["final_sigmas_type"] = "zero" if spec["final"] == "clean" else "sigma_min"
    return config


def _write_betas(spec: Options, schedule: Schedule) -> Options:
    """The β of a schedule: by name where diffusers has the name, as numbers otherwise."""
    steps = schedule.steps
    names = {v: k for k, v in _BETAS.items()}
    options = spec["schedule_args"]
    config: Options = {"num_train_timesteps": steps}
    if (name := spec["schedule_name"]) in names and "max_beta" not in options:
        config["beta_schedule"] = names[name]
        for key, parameter in inspect.signature(SCHEDULES[name]).parameters.items():
            if key.startswith("beta_"):
                config[key] = options.get(key, parameter.default)
        return config | {"rescale_betas_zero_snr": bool(options.get("zero_snr", False))}
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    level = schedule.level(t)
    if not torch.allclose(level.alpha.square() + level.sigma.square(), torch.ones_like(t)):
        raise UserError(
            f"diffusers' tables hold variance-preserving schedules, and {spec['schedule_name']!r} "
            "is not one, so this model cannot be exported"
        )
    bar = level.alpha.square()
    return config | {"trained_betas": (1 - bar / torch.cat([bar.new_ones(1), bar[:-1]])).tolist()}
