"""The dialects of diffusers' schedulers: their configs as the fields of a Spec."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ldm.diffusion.schedules import ZERO_SNR_FLOOR
from ldm.errors import UserError

Options = dict[str, Any]

# classes whose spacings are those of a table, and those whose sample is x/α
_TABLE = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "LCMScheduler")
_SIGMA = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler")
PREDICTIONS = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "v",
    "flow_prediction": "flow",
}
BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "learned_range": "learned",
}
_CLIPPING = ("thresholding", "dynamic_thresholding_ratio", "sample_max_value")


class _Reader:
    """Reads a config key by key, with its class's defaults, and knows which keys nobody read."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        import diffusers

        self.name = config.get("_class_name", "")
        if self.name not in _READERS:
            known = ", ".join(_READERS)
            raise UserError(
                f"scheduler {self.name!r} is not implemented; there are {known}; to sample with "
                'another one, name it: from_pretrained(..., sampler="ddim")'
            )
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
            'scheduler config, or sample with another one: from_pretrained(..., sampler="ddim")'
        )


def read_scheduler(config: Mapping[str, Any]) -> Options:
    """A diffusers scheduler config as the fields of a Spec.

    Raises UserError naming the class, or the first key whose value is not implemented.
    """
    read = _Reader(config)
    fields = _READERS[read.name](read)
    for key in sorted(read.unread):
        raise read.refusal(key)
    return fields


def _read_common(read: _Reader) -> Options:
    """What the classes with a table of β share."""
    wanted = read("timestep_spacing", "leading", "trailing", "linspace")
    schedule, schedule_args = _read_betas(read)
    karras, exponential = read("use_karras_sigmas"), read("use_exponential_sigmas")
    if karras or exponential:
        wanted = ("karras" if karras else "exponential", wanted)
    grid, grid_args = spacing(read.name, wanted, read("steps_offset"), schedule)
    clean = read("set_alpha_to_one", default=True)
    clean = read("final_sigmas_type", "zero", "sigma_min", default="zero") == "zero" and clean
    known = [p for p in PREDICTIONS if p != "flow_prediction" or read.values.get("use_flow_sigmas")]
    clip, limit = read("clip_sample"), read("clip_sample_range", default=1.0)
    thresholding, *threshold = (read(key) for key in _CLIPPING)
    return {
        "schedule_name": schedule,
        "schedule_args": schedule_args,
        "prediction_name": PREDICTIONS[read("prediction_type", *known)],
        "grid": grid,
        "grid_args": grid_args,
        "clip": limit if clip and not thresholding else None,
        "thresholding": tuple(threshold) if thresholding else None,
        "final": "clean" if clean else "ratio" if read.name in _SIGMA else "first",
        "start": start(read.name, read.values["timestep_spacing"]),
    }


def _read_betas(read: _Reader) -> tuple[str, Options]:
    """The table of β: its schedule's name and arguments."""
    names = BETAS | ({"sigmoid": "sigmoid"} if read.name == "DDPMScheduler" else {})
    name = names[read("beta_schedule", *names)]
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


def spacing(
    class_name: str, name: str | tuple[str, str], offset: int, schedule: str = ""
) -> tuple[str, Options]:
    """The grid, and its options, that a class means by a spacing, or by (karras, spacing)."""
    multistep = class_name not in _TABLE + _SIGMA
    if isinstance(name, tuple):
        grid, between = name
        if class_name in _SIGMA:
            return grid, {"between": between} if between != "linspace" else {}
        rounds = grid == "karras" and (schedule != "cosine" or class_name.startswith("UniPC"))
        return grid, {"told": "round" if rounds else "floor"}
    if name == "linspace" and class_name in _SIGMA:
        return "interpolated", {}
    options = {"offset": offset} if name == "leading" and offset else {}
    if multistep and name in ("leading", "linspace"):
        options["extra"] = 1
    return name, options


def start(class_name: str, name: str) -> str:
    """The standard deviation of the first x that a class means; the sample of some is x/α."""
    return "sigma" if class_name in _SIGMA and name != "leading" else "one"


def _read_ddpm(read: _Reader) -> Options:
    variance = VARIANCES[read("variance_type", *VARIANCES)]
    return _read_common(read) | {
        "sampler": "ddpm",
        "sampler_args": {} if variance == "small" else {"variance": variance},
        "learned_variance": variance == "learned",
    }


def _read_pndm(read: _Reader) -> Options:
    read("skip_prk_steps")
    warnings.warn("PNDM is sampled with its nearest here, UniPC on the same levels", stacklevel=5)
    return _read_common(read) | {"sampler": "unipc"}


def _reader(sampler: str) -> Callable[[_Reader], Options]:
    return lambda read: _read_common(read) | {"sampler": sampler}


def _read_dpm(read: _Reader) -> Options:
    read("variance_type", None, "learned_range")
    return _read_flow_sigmas(read, _read_common(read) | _read_solver(read), {})


def _read_unipc(read: _Reader) -> Options:
    read("solver_type", "bh2")
    read("solver_order", 2)
    options = {} if read("lower_order_final") else {"lower_order_final": False}
    fields = _read_common(read) | {"sampler": "unipc", "sampler_args": options}
    if fields["final"] == "first" and fields["grid"] in ("karras", "exponential"):
        raise read.refusal("final_sigmas_type")
    return _read_flow_sigmas(read, fields, {"top": 1 - 1e-6})


def _read_flow_sigmas(read: _Reader, fields: Options, grid_args: Options) -> Options:
    if not read("use_flow_sigmas"):
        return fields
    read("num_train_timesteps", 1000)
    flow = {"schedule_name": "flow", "schedule_args": {"shift": read("flow_shift")}}
    return fields | flow | {"grid": "flow", "grid_args": grid_args}


def _read_solver(read: _Reader) -> Options:
    """The solver of the two DPM-Solver++ classes."""
    read("solver_type", "midpoint")
    order = read("solver_order", 1, 2)
    stochastic = read("algorithm_type", "dpmsolver++", "sde-dpmsolver++") != "dpmsolver++"
    lower = read("lower_order_final")
    if read("euler_at_final") and read.values["final_sigmas_type"] != "zero":
        raise read.refusal("euler_at_final")
    if order == 1:
        return {"sampler": "euler_ancestral" if stochastic else "euler"}
    options = {} if lower else {"lower_order_final": False}
    return {"sampler": "dpmpp_2m_sde" if stochastic else "dpmpp_2m", "sampler_args": options}


def _read_lcm(read: _Reader) -> Options:
    fields = _read_common(read)
    return fields | {
        "sampler": "consistency",
        "grid": "lcm",
        "grid_args": {"original": read("original_inference_steps")},
        "boundary": read("timestep_scaling"),
        "final": "clean",
    }


def _read_edm(read: _Reader) -> Options:
    read("num_train_timesteps")
    read("final_sigmas_type", "zero")
    sign = 1.0 if read("prediction_type", "epsilon", "v_prediction") == "epsilon" else -1.0
    even = read("sigma_schedule") == "exponential"
    rho = read("rho")
    thresholding, *threshold = (read(key) for key in _CLIPPING)
    euler = read.name == "EDMEulerScheduler"
    return {
        "schedule_name": "edm",
        "schedule_args": {key: read(key) for key in ("sigma_min", "sigma_max")},
        "prediction_name": "edm",
        "prediction_args": {"sigma_data": read("sigma_data"), "sign": sign},
        "grid": "exponential" if even else "edm",
        "grid_args": {} if even or rho == 7 else {"rho": rho},
        "thresholding": tuple(threshold) if thresholding else None,
        "start": "marginal",
    } | ({"sampler": "euler"} if euler else _read_solver(read))


def _read_flow_match(read: _Reader) -> Options:
    read("num_train_timesteps", 1000)
    if not read("use_dynamic_shifting", None, False):
        for key in ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"):
            read(key)
        read("time_shift_type")
    sampler = "heun" if read.name.startswith("FlowMatchHeun") else "euler"
    return {
        "schedule_name": "flow",
        "schedule_args": {"shift": read("shift")},
        "prediction_name": "flow",
        "sampler": "consistency" if read("stochastic_sampling") else sampler,
        "grid": "flow_match",
    }


_READERS: dict[str, Callable[[_Reader], Options]] = {
    "DDPMScheduler": _read_ddpm,
    "DDIMScheduler": _reader("ddim"),
    "PNDMScheduler": _read_pndm,
    "EulerDiscreteScheduler": _reader("euler"),
    "EulerAncestralDiscreteScheduler": _reader("euler_ancestral"),
    "HeunDiscreteScheduler": _reader("heun"),
    "DPMSolverMultistepScheduler": _read_dpm,
    "UniPCMultistepScheduler": _read_unipc,
    "LCMScheduler": _read_lcm,
    "EDMEulerScheduler": _read_edm,
    "EDMDPMSolverMultistepScheduler": _read_edm,
    "FlowMatchEulerDiscreteScheduler": _read_flow_match,
    "FlowMatchHeunDiscreteScheduler": _read_flow_match,
}
