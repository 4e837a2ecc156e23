"""A scheduler config read key by key: with its class's defaults, and only what can be meant."""

import math
from collections.abc import Collection, Mapping
from inspect import signature
from typing import Any

from ldm.core.errors import UserError

MOST_STEPS = 100_000  # of a table of β: what is more is no schedule
WAY_OUT = 'from_pretrained(..., sampler="ddim")'
# DPMSolverSDEScheduler is no class without torchsde, which sampling here does not need
_WITHOUT_TORCHSDE = {
    "DPMSolverSDEScheduler": "KDPM2DiscreteScheduler",
}
_POSITIVE = (
    "num_train_timesteps",
    "original_inference_steps",
    "solver_order",
    "beta_start",
    "beta_end",
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "sigma_min",
    "sigma_max",
    "sigma_data",
    "rho",
    "shift",
    "flow_shift",
)
_AT_MOST = {
    "num_train_timesteps": MOST_STEPS,
    "beta_start": 1,
    "beta_end": 1,
    "dynamic_thresholding_ratio": 1,
}


def defaults_of(class_name: str) -> dict[str, Any]:
    """The options of a diffusers scheduler with their defaults; {} where there is no such class."""
    import diffusers

    made = getattr(diffusers, class_name, None)
    if not isinstance(made, type):
        return {}
    found = {k: p.default for k, p in signature(made).parameters.items()}
    found = {k: default for k, default in found.items() if default is not signature(made).empty}
    twin = _WITHOUT_TORCHSDE.get(class_name)
    return found or (defaults_of(twin) | {"noise_sampler_seed": None} if twin else {})


class Reader:
    """Reads a config key by key, with its class's defaults, and knows which keys nobody read."""

    def __init__(self, config: Mapping[str, Any], known: Collection[str]) -> None:
        self.name = str(config.get("_class_name", ""))
        if self.name not in known:
            raise UserError(
                f"scheduler {self.name!r} is not implemented; there are {', '.join(known)}; to "
                f"sample with another one, name it: {WAY_OUT}"
            )
        defaults = defaults_of(self.name)
        given = {k: v for k, v in config.items() if k in defaults}  # others mean nothing to it
        self.values = {**defaults, **given}
        self.unread = {k for k, v in given.items() if v != defaults[k]}
        for key in sorted(self.unread):
            self._check(key, defaults[key])
        self.near: list[str] = []  # what a solver here only comes near to

    def __call__(self, key: str, *allowed: Any, default: Any = None) -> Any:
        """The value of `key`; `default` where the class has no such key."""
        value = self.values.get(key, default)
        if allowed and value not in allowed:
            raise self.refusal(key)
        self.unread.discard(key)
        return value

    def nearly(self, key: str, *exact: Any, near: Collection[Any]) -> Any:
        """The value of `key`: `exact` ones are sampled as they say, `near` ones with a warning."""
        value = self(key, *exact, *near)
        if value not in exact:
            self.near.append(f"{key}={value!r}")
        return value

    def refusal(self, key: str, why: str = "is not implemented") -> UserError:
        value = repr(self.values.get(key))
        return UserError(
            f"{self.name}'s {key}={value[:40]} {why}; set it otherwise in the scheduler config, or "
            f"sample with another one: {WAY_OUT}"
        )

    def _check(self, key: str, default: Any) -> None:
        """Refuse what is of another type than the default, not finite or out of its range."""
        value = self.values[key]
        if key == "trained_betas":
            if value is not None:
                self._check_betas(value)
            return
        if isinstance(default, bool):
            if value is not None and not isinstance(value, bool):
                raise self.refusal(key, "is neither true nor false")
        elif isinstance(default, int | float) or (key in _POSITIVE and value is not None):
            whole = isinstance(default, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise self.refusal(key, "is no whole number" if whole else "is no number")
            least = 0 if key in _POSITIVE else 0 if whole else -math.inf
            inside = least < value if key in _POSITIVE else least <= value
            if not (inside and value <= _AT_MOST.get(key, math.inf)) or value == math.inf:
                raise self.refusal(key, "is out of its range")
        elif isinstance(default, str) and not isinstance(value, str):
            raise self.refusal(key, "is no name")

    def _check_betas(self, betas: Any) -> None:
        if not isinstance(betas, list | tuple):
            raise self.refusal("trained_betas", "is no list of numbers")
        if len(betas) != (steps := self.values.get("num_train_timesteps")):
            raise self.refusal("trained_betas", f"has {len(betas)} entries for {steps} steps")
        for beta in betas:
            number = isinstance(beta, int | float) and not isinstance(beta, bool)
            if not (number and 0 <= beta <= 1):
                raise self.refusal("trained_betas", f"holds {str(beta)[:20]}, which is no β")
        if not any(betas):
            raise self.refusal("trained_betas", "adds no noise")
