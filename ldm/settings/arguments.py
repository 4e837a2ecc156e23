"""The arguments that a free section of the config hands to a function or class, checked before.

Types are those of its signature; the limits of a name, wherever it is used, stand in LIMITS.
"""

import re
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from math import pi
from typing import Any

import torch

from ldm.core.errors import UserError
from ldm.settings.fields import Range

_LAYERS, _SIZE = Range(1, 1000), Range(1, 10**6)
_BETA, _POSITIVE = Range(0, 1, over=True, under=True), Range(0, 1e6, over=True)
LIMITS: Mapping[str, Range] = {
    # of schedules and predictions
    "steps": Range(2, 10**5),
    "beta_start": _BETA,
    "beta_end": _BETA,
    "betas": Range(0, 1),
    "floor": Range(0, 1, under=True),
    "max_beta": Range(0, 1, over=True),
    "s_max": Range(0, 1, over=True),
    "s_min": Range(0, 1, under=True),
    "shift": Range(0, 1000, over=True),
    "sigma_min": _POSITIVE,
    "sigma_max": _POSITIVE,
    "beta_min": Range(0, 1e3),
    "beta_max": Range(0, 1e3, over=True),
    "log_snr_max": Range(-100, 100),
    "log_snr_min": Range(-100, 100),
    "hidden": Range(1, 10**4),
    "sigma_data": _POSITIVE,
    "sign": Range(-1, 1),
    # of times and weightings
    "mean": Range(-100, 100),
    "std": Range(0, 100, over=True),
    "bins": Range(1, 10**4),
    "history": Range(1, 10**4),
    "uniform": Range(0, 1, over=True),
    "gamma": Range(0, 1e6),
    "k": Range(0, 1e6),
    "bias": Range(-100, 100),
    # of samplers
    "eta": Range(0, 1),
    "corrections": Range(0, 1000),
    "snr": Range(0, 100),
    "size": Range(0, 100),
    # of networks
    "layers_per_block": _LAYERS,
    "transformer_layers_per_block": _LAYERS,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _LAYERS,
    "attention_head_dim": _SIZE,
    "block_out_channels": _SIZE,
    "norm_num_groups": _SIZE,
    "latent_channels": _SIZE,
    "hidden_size": _SIZE,
    "intermediate_size": _SIZE,
    "projection_dim": _SIZE,
    "max_position_embeddings": Range(2, 10**5),
    "num_class_embeds": _SIZE,
    "encoder_hid_dim": _SIZE,
    "time_cond_proj_dim": _SIZE,
    "conv_in_kernel": Range(1, 99),
    "conv_out_kernel": Range(1, 99),
    "dropout": Range(0, 1, under=True),
    "attention_dropout": Range(0, 1, under=True),
    "norm_eps": Range(0, 1, over=True),
    "layer_norm_eps": Range(0, 1, over=True),
    "shift_factor": Range(-1e6, 1e6),
    "scaling_factor": _POSITIVE,
}
_OTHERS = Range(0, 1e6)
_CHOICES = {"variance": ("small", "large", "learned")}


def refuse_arguments(section: str, function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise UserError for the first value that is not of its type, or out of its limits.

    Names that the function does not have are left to it.
    """
    known = dict(signature(function).parameters)
    known |= signature(function, follow_wrapped=False).parameters  # what a decorator adds
    for name, value in given.items():
        if name in known and (reason := _problem(name, value, known[name])):
            shown = repr(value) if len(repr(value)) <= 80 else f"{value!r:.77}..."
            raise UserError(f"{section}.{name}={shown} {reason}")


def _problem(name: str, value: Any, parameter: Parameter) -> str | None:
    told = "" if parameter.annotation is parameter.empty else str(parameter.annotation)
    default = type(parameter.default).__name__
    kinds = set(re.findall(r"\b(bool|int|float|str|dict|Dict)\b", told))
    kinds |= {default} & {"bool", "int", "float", "str"} if not kinds else set()
    if not kinds:
        return None
    if value is None:
        nothing = ("None" in told or "Optional" in told) and name not in LIMITS
        return None if nothing or parameter.default is None else "must have a value"
    several = default in ("tuple", "list") or told.startswith("collections.abc.Sequence")
    if isinstance(value, list | tuple):
        if len(value) < (2 if name == "betas" else 1):
            return "is too short a list"
        if not re.search(r"Sequence|tuple|list", told, re.I) and default not in ("tuple", "list"):
            return "takes one value, not a list"
        nested = re.search(r"uple\[[a-z.]*tuple", told, re.I)
        if not nested and any(isinstance(item, list | tuple) for item in value):
            return "has a list within a list"
        each = parameter.replace(
            default=parameter.empty, annotation=told.replace("abc.Sequence", "tuple")
        )
        return next((p for item in value if (p := _problem(name, item, each))), None)
    if several:
        return "must be a list"
    if isinstance(value, dict):
        return None if kinds & {"dict", "Dict"} else "takes no {name: value}"
    if isinstance(value, bool):
        return None if "bool" in kinds else f"must be a {_or(kinds)}"
    if isinstance(value, str):
        choices = _CHOICES.get(name, (value,))
        if "str" not in kinds:
            return f"must be a {_or(kinds)}"
        return None if value in choices else f"is not one of {', '.join(choices)}"
    if not kinds & {"float", *(["int"] if isinstance(value, int) else [])}:
        return f"must be a {_or(kinds)}"
    return LIMITS.get(name, _OTHERS).problem(value)


def _or(kinds: set[str]) -> str:
    names = {"bool": "true or false", "int": "whole number", "float": "number", "str": "text"}
    return " or ".join(names[kind] for kind in names if kind in kinds)


@torch.no_grad()
def refuse_no_schedule(section: str, schedule: Any) -> None:
    """Raise UserError where levels are not finite, or noise does not grow from t = 0 to 1."""
    level = schedule.level(torch.linspace(0, 1, 101, dtype=torch.float64))
    angle = torch.atan2(level.sigma, level.alpha)
    finite = bool(level.alpha.isfinite().all() and level.sigma.isfinite().all())
    if not finite or bool((angle.diff() < -1e-9).any()):
        raise UserError(f"{section}: with these, noise does not grow from t = 0 to t = 1")
    if float(angle[-1] - angle[0]) < pi / 32:
        raise UserError(f"{section}: with these, hardly any noise is added: nothing is learned")
