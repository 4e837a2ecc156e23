"""The fields of a Spec as the config of the diffusers scheduler that says the most of them."""

import inspect

from ldm.core.errors import UserError
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.schedules import SCHEDULES, Schedule, positions
from ldm.schedulers.quirks import CHOSEN, MULTISTEP
from ldm.schedulers.reader import VARIANCES
from ldm.schedulers.table import BETAS, PREDICTIONS, Options, first_label, tabulated

# a sampler's class, and which of the class's solvers it is
_MULTISTEP, _OF_EDM = "DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler"
_ODE, _SDE = {"algorithm_type": "dpmsolver++"}, {"algorithm_type": "sde-dpmsolver++"}
_Row = tuple[str, Options]
_CLASSES: dict[str, _Row] = {
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmpp_2m": (_MULTISTEP, {"solver_order": 2, **_ODE}),
    "dpmpp_2m_sde": (_MULTISTEP, {"solver_order": 2, **_SDE}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "consistency": ("LCMScheduler", {}),
}
# stock pipelines cannot run the flow-match classes, so that first-order solvers go by DPM-Solver's
_FLOW: dict[str, _Row] = {
    "ddim": (_MULTISTEP, {"solver_order": 1, **_ODE}),
    "euler": (_MULTISTEP, {"solver_order": 1, **_ODE}),
    "euler_ancestral": (_MULTISTEP, {"solver_order": 1, **_SDE}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "consistency": ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
}
_FLOW_MATCH = dict.fromkeys(("ddim", "euler"), "FlowMatchEulerDiscreteScheduler")
_EDM: dict[str, _Row] = {
    "ddim": ("EDMEulerScheduler", {}),
    "euler": ("EDMEulerScheduler", {}),
    "dpmpp_2m": (_OF_EDM, _ODE),
    "dpmpp_2m_sde": (_OF_EDM, _SDE),
}
_KIND = {"flow": _FLOW, "edm": _EDM, "ve": _EDM}


def _row(sampler: str, schedule: str) -> _Row | None:
    return _KIND.get(schedule, _CLASSES).get(sampler) or _CLASSES.get(sampler)


def stock_class(sampler: str, schedule: str) -> str | None:
    """The diffusers class of a sampler on a schedule; None where it has none."""
    row = _row(sampler, schedule)
    return row and row[0]


def class_of(sampler: str, schedule: str) -> str:
    """The same; DDIM where it has none."""
    return stock_class(sampler, schedule) or "DDIMScheduler"


def solver_of(sampler: str, schedule: str) -> Options:
    """Which solver of its class a sampler is, in the class's words."""
    row = _row(sampler, schedule)
    return dict(row[1]) if row else {}


def divides_by_alpha(sampler: str) -> bool:
    """Whether diffusers keeps ᾱ from 0 for this sampler, at the floor of zero terminal SNR."""
    others = ("DDPMScheduler", "DDIMScheduler", "LCMScheduler", None)
    return stock_class(sampler, "") not in others


def write_scheduler(spec: Options, schedule: Schedule) -> Options:
    """A diffusers config; it may say less than the fields do, so read it back and compare.

    Raises UserError for a schedule that no diffusers class can hold.
    """
    sampler, schedule_name = spec["sampler"], spec["schedule_name"]
    name, solver = class_of(sampler, schedule_name), solver_of(sampler, schedule_name)
    if spec["grid"] == "flow_match":
        name = _FLOW_MATCH.get(sampler, name)
    config: Options = {"_class_name": name}
    if name.startswith("EDM"):
        return config | _edm(spec, schedule) | solver
    if name.startswith("FlowMatch"):
        shift = {"shift": float(spec["schedule_args"].get("shift", 1.0))}
        return config | shift | (solver if sampler not in _FLOW_MATCH else {})
    predictions = {v: k for k, v in PREDICTIONS.items()}
    between = spec["grid_args"].get("between") or "linspace"
    named = {"interpolated": "linspace"} | dict.fromkeys(CHOSEN, between)
    laid = (spec["grid"], between)
    config |= {
        "prediction_type": predictions.get(spec["prediction_name"], "epsilon"),
        "timestep_spacing": named.get(spec["grid"], spec["grid"]),
        # where it means nothing, as stock pipelines rewrite it
        "steps_offset": spec["grid_args"].get("offset", 0) if "leading" in laid else 1,
        **_solver(name, spec),
        **solver,
    }
    if spec["grid"] == "log_linear":
        config["interpolation_type"] = "log_linear"
    elif spec["grid"] in CHOSEN:
        config[f"use_{spec['grid']}_sigmas"] = True
    if spec["schedule_name"] == "flow" and name.startswith(MULTISTEP):
        return config | {
            "use_flow_sigmas": True,
            "flow_shift": float(spec["schedule_args"].get("shift", 1.0)),
            "timestep_spacing": "linspace",
        }
    config |= _betas(spec, schedule, name == "DDPMScheduler")
    floored = name.startswith(MULTISTEP) and spec["grid_args"].get("told") == "floor"
    return _settled(config) if floored else config


def _settled(config: Options) -> Options:
    """The same with β moved by at most two parts in a million, so that float32 keeps the label.

    A multistep class cuts the noisiest label, 999, to a whole number after it went through a
    logarithm in float32, which makes 998 of it as often as not.
    """
    for k in range(21):
        factor = 1 - k * 1e-7
        betas = config.get("trained_betas")
        moved = (
            {"beta_end": config["beta_end"] * factor}
            if "beta_end" in config
            else {"trained_betas": [*betas[:-1], betas[-1] * factor]}
            if betas
            else {}
        )
        options = {k: v for k, v in (config | moved).items() if k != "_class_name"}
        if first_label(config["_class_name"], options) == config["num_train_timesteps"] - 1:
            return config | (moved if k else {})
    return config


def _solver(name: str, spec: Options) -> Options:
    """What a class with a table says beside it."""
    options = spec["sampler_args"]
    config: Options = {}
    if name == "DDPMScheduler":
        variances = {v: k for k, v in reversed(VARIANCES.items())}
        config["variance_type"] = variances[options.get("variance", "small")]
    elif name == "DDIMScheduler":
        config["set_alpha_to_one"] = spec["final"] == "clean"
    elif name == "LCMScheduler":
        config["original_inference_steps"] = spec["grid_args"].get("original", 50)
        config["timestep_scaling"] = spec["boundary"] or 0.0
        config["timestep_spacing"] = "leading"
    elif name.startswith(("DPM", "UniPC")):
        config["lower_order_final"] = options.get("lower_order_final", True)
    if name in ("DDPMScheduler", "DDIMScheduler", "LCMScheduler", "HeunDiscreteScheduler"):
        config["clip_sample"] = spec["clip"] is not None
        config["clip_sample_range"] = spec["clip"] or 1.0
    elif name != "EulerAncestralDiscreteScheduler":
        config["final_sigmas_type"] = "zero" if spec["final"] == "clean" else "sigma_min"
    return config | _thresholding(spec)


def _thresholding(spec: Options) -> Options:
    if spec["thresholding"] is None:
        return {}
    ratio, largest = spec["thresholding"]
    return {
        "thresholding": True,
        "dynamic_thresholding_ratio": ratio,
        "sample_max_value": largest,
    }


def _edm(spec: Options, schedule: Schedule) -> Options:
    options = spec["prediction_args"]
    config: Options = {
        key: getattr(schedule, key, default)
        for key, default in (("sigma_min", 0.002), ("sigma_max", 80.0))
    }
    config["sigma_data"] = options.get("sigma_data", 0.5)
    config["prediction_type"] = "epsilon" if options.get("sign", 1) > 0 else "v_prediction"
    config["rho"] = spec["grid_args"].get("rho", 7.0)
    config["sigma_schedule"] = "exponential" if spec["grid"] == "exponential" else "karras"
    if "lower_order_final" in SAMPLERS[spec["sampler"]].defaults:
        config["lower_order_final"] = spec["sampler_args"].get("lower_order_final", True)
    return config | _thresholding(spec)


def _betas(spec: Options, schedule: Schedule, ddpm: bool) -> Options:
    """The β of a schedule: by name where diffusers has the name, as numbers otherwise."""
    steps, name, options = positions(schedule), spec["schedule_name"], spec["schedule_args"]
    names = {v: k for k, v in BETAS.items()} | ({"sigmoid": "sigmoid"} if ddpm else {})
    config: Options = {"num_train_timesteps": steps}
    if name == "table":
        zero = bool(options.get("zero_snr", False))
        return config | {"trained_betas": options["betas"], "rescale_betas_zero_snr": zero}
    if name in names and "max_beta" not in options:
        config["beta_schedule"] = names[name]
        for key, parameter in inspect.signature(SCHEDULES[name]).parameters.items():
            if key.startswith("beta_"):
                config[key] = options.get(key, parameter.default)
        return config | {"rescale_betas_zero_snr": bool(options.get("zero_snr", False))}
    betas = tabulated(schedule)
    if betas is None:
        raise UserError(
            f"diffusers' tables hold variance-preserving schedules, and {name!r} is not one, so "
            "this model cannot be exported"
        )
    if betas.min() < 0:
        raise UserError(
            f"diffusers counts pure noise as ᾱ = 2⁻²⁴ for {spec['sampler']}, and {name!r} has less "
            "signal than that before its end, so this model cannot be exported; take sampler ddim"
        )
    return config | {"trained_betas": betas.tolist()}
