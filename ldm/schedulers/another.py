"""A diffusers scheduler config read for another sampler than its own, as `from_config` does it."""

import warnings
from collections.abc import Mapping
from typing import Any

from ldm.core.errors import UserError
from ldm.schedulers.keys import defaults_of
from ldm.schedulers.reader import read_scheduler
from ldm.schedulers.writer import class_of, solver_of

# what says which model it is; the rest says how it is sampled
_MODEL = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
_SAMPLED = (
    "timestep_spacing",
    "steps_offset",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "set_alpha_to_one",
    "final_sigmas_type",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "original_inference_steps",
)
LEARNED = ("learned", "learned_range")


def read_for(config: Mapping[str, Any], sampler: str) -> dict[str, Any]:
    """The fields of a Spec that samples a config's model with `sampler`, whatever class it is of.

    Warns where what the config says of its grid cannot be read: it is the new class's own then.
    Raises UserError for a model that cannot be read.
    """
    if keeps_grid(config):
        return read_scheduler(config)
    try:
        return read_scheduler(of_another_class(config, sampler))
    except UserError as error:
        fields = read_scheduler(of_another_class(config, sampler, sampled=False))
        warnings.warn(f"sampled on the grid of {sampler}, because {error}", stacklevel=4)
        return fields


def of_another_class(
    config: Mapping[str, Any], sampler: str, sampled: bool = True
) -> dict[str, Any]:
    """The config of the class that diffusers samples with like `sampler`, for the same model.

    β and prediction are the config's, or its class's defaults where that is known at all; what the
    config says of grid, clipping and end is kept, if `sampled`, where the new class knows it too,
    as when a scheduler is made `from_config` of another. Raises UserError where it has no β.
    """
    name, its = class_of(sampler, ""), str(config.get("_class_name", ""))
    known, own = defaults_of(name), defaults_of(its)
    said = {**own, **config}
    if not (said.get("beta_schedule") or said.get("trained_betas")):
        raise UserError(
            f"scheduler {its!r} says nothing of β in its config, so that no sampler here can take "
            "its place"
        )
    model = {key: said[key] for key in _MODEL if key in said}
    others = {key: config[key] for key in _SAMPLED if key in config and sampled}
    kept = {k: v for k, v in (model | others).items() if k in known}
    return {"_class_name": name, **kept, **solver_of(sampler, "")}


def keeps_grid(config: Mapping[str, Any]) -> bool:
    """Whether the config's levels are its own family's, so that a sampler alone is exchanged."""
    own = str(config.get("_class_name", "")).startswith(("EDM", "FlowMatch"))
    return own or bool(config.get("use_flow_sigmas"))
