"""The dialects of diffusers' schedulers: their configs as the fields of a Spec."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ldm.schedulers.keys import WAY_OUT, Reader
from ldm.schedulers.table import CLIPPING, Options, read_table

VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "learned_range": "learned",
}
_SOLVER = (
    "solver_order",
    "solver_type",
    "algorithm_type",
    "lower_order_final",
    "predictor_order",
    "corrector_order",
)
# classes whose levels are kept and whose solver gives way to the nearest here
NEAREST = {
    "PNDMScheduler": "unipc",
    "DEISMultistepScheduler": "unipc",
    "LMSDiscreteScheduler": "unipc",
    "KDPM2DiscreteScheduler": "heun",
    "KDPM2AncestralDiscreteScheduler": "euler_ancestral",
    "DPMSolverSinglestepScheduler": "dpmpp_2m",
    "DPMSolverSDEScheduler": "dpmpp_2m_sde",
    "SASolverScheduler": "dpmpp_2m_sde",
    "TCDScheduler": "ddim",
}


def read_scheduler(config: Mapping[str, Any]) -> Options:
    """A diffusers scheduler config as the fields of a Spec.

    Raises UserError naming the class, or the first key whose value is not implemented.
    """
    read = Reader(config, _READERS)
    fields = _READERS[read.name](read)
    for key in sorted(read.unread):
        raise read.refusal(key)
    if read.near:
        of = " with " + ", ".join(read.near) if all(read.near) else ""
        warnings.warn(
            f"{read.name.removesuffix('Scheduler')}{of} is sampled with its nearest here, "
            f"{fields['sampler']} on the same levels; {WAY_OUT} names another",
            stacklevel=4,
        )
    return fields


def _read_ddpm(read: Reader) -> Options:
    variance = VARIANCES[read("variance_type", *VARIANCES)]
    return read_table(read) | {
        "sampler": "ddpm",
        "sampler_args": {} if variance == "small" else {"variance": variance},
        "learned_variance": variance == "learned",
    }


def _read_nearest(read: Reader) -> Options:
    """A class whose solver is not here: its levels, and the nearest solver."""
    fields = read_table(read)
    for key in ("skip_prk_steps", "noise_sampler_seed"):
        read(key)
    if read.name.startswith(("DEIS", "DPMSolverSinglestep", "SASolver")):
        order = read("solver_order")
        for key in _SOLVER:
            read(key)
        read("variance_type", None, "learned_range")
        read("tau_func", None)
        deterministic = not str(read.values.get("algorithm_type")).startswith("sde")
        fields |= {"sampler": NEAREST[read.name] if deterministic else "dpmpp_2m_sde"}
        if not read.name.startswith("DPM"):  # their flow would leave noise in the sample
            read("flow_shift")
            read.near.append("")
            return fields | {"final": "first"}
        if order == 1:  # Euler's, which is here
            fields["sampler"] = "euler" if deterministic else "euler_ancestral"
            return _read_flow_sigmas(read, fields, {})
        read.near.append("")
        return _read_flow_sigmas(read, fields, {})
    read.near.append("")
    return fields | {"sampler": NEAREST[read.name]}


def _read_tcd(read: Reader) -> Options:
    """Without fresh noise, which is how stock pipelines call it: DDIM on the distilled levels."""
    fields = read_table(read)
    read("timestep_scaling")
    original = {"original": read("original_inference_steps")}
    read.near.append("")
    fields |= {"sampler": "ddim", "grid": "lcm", "grid_args": original, "final": "first"}
    return fields | {"clip": None, "thresholding": None}


def _reader(sampler: str) -> Callable[[Reader], Options]:
    return lambda read: read_table(read) | {"sampler": sampler}


def _read_dpm(read: Reader) -> Options:
    read("variance_type", None, "learned_range")
    return _read_flow_sigmas(read, read_table(read) | _read_solver(read), {})


def _read_unipc(read: Reader) -> Options:
    read.nearly("solver_type", "bh2", "midpoint", "heun", "logrho", near=("bh1",))
    read.nearly("solver_order", 2, near=(1, 3))
    read.nearly("predict_x0", True, near=(False,))
    if read("disable_corrector"):
        read.near.append("disable_corrector")
    options = {} if read("lower_order_final") else {"lower_order_final": False}
    fields = read_table(read) | {"sampler": "unipc", "sampler_args": options}
    if fields["final"] == "first" and fields["grid"] in ("karras", "exponential", "beta"):
        raise read.refusal("final_sigmas_type")
    return _read_flow_sigmas(read, fields, {"top": 1 - 1e-6})


def _read_flow_sigmas(read: Reader, fields: Options, grid_args: Options) -> Options:
    if not read("use_flow_sigmas"):
        read("flow_shift")  # which means nothing then
        return fields
    read("num_train_timesteps", 1000)
    read("final_sigmas_type", "zero", None)
    flow = {"schedule_name": "flow", "schedule_args": {"shift": read("flow_shift")}}
    return fields | flow | {"grid": "flow", "grid_args": grid_args}


def _read_solver(read: Reader) -> Options:
    """The solver of the two DPM-Solver++ classes."""
    order = read.nearly("solver_order", 1, 2, near=(3,))
    same = ("midpoint", "logrho", "bh1", "bh2")  # which the class takes for midpoint
    read.nearly("solver_type", *same, *(("heun",) if order == 1 else ()), near=("heun",))
    exact, near = ("dpmsolver++", "sde-dpmsolver++", "deis"), ("dpmsolver", "sde-dpmsolver")
    algorithm = read.nearly("algorithm_type", *exact, near=near)
    stochastic = algorithm.startswith("sde")
    lower = read("lower_order_final")
    final = read.values["final_sigmas_type"]
    if read("euler_at_final") and final != "zero":
        read.near.append("euler_at_final")
    if order == 1:
        return {"sampler": "euler_ancestral" if stochastic else "euler"}
    options = {} if lower else {"lower_order_final": False}
    return {"sampler": "dpmpp_2m_sde" if stochastic else "dpmpp_2m", "sampler_args": options}


def _read_lcm(read: Reader) -> Options:
    fields = read_table(read)
    return fields | {
        "sampler": "consistency",
        "grid": "lcm",
        "grid_args": {"original": read("original_inference_steps")},
        "boundary": read("timestep_scaling"),
        "final": "clean",
    }


def _read_edm(read: Reader) -> Options:
    read("num_train_timesteps")
    read("final_sigmas_type", "zero")
    sign = 1.0 if read("prediction_type", "epsilon", "v_prediction") == "epsilon" else -1.0
    even = read("sigma_schedule") == "exponential"
    rho = read("rho")
    thresholding, *threshold = (read(key) for key in CLIPPING)
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


def _read_flow_match(read: Reader) -> Options:
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


_READERS: dict[str, Callable[[Reader], Options]] = {
    "DDPMScheduler": _read_ddpm,
    "DDIMScheduler": _reader("ddim"),
    "DDPMParallelScheduler": _read_ddpm,
    "DDIMParallelScheduler": _reader("ddim"),
    "TCDScheduler": _read_tcd,
    **{name: _read_nearest for name in NEAREST if name != "TCDScheduler"},
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
