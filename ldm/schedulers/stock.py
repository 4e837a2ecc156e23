"""The scheduler configs that StableDiffusionPipeline takes, and what it makes of them."""

from collections.abc import Mapping
from typing import Any

from ldm.core.errors import UserError
from ldm.schedulers.keys import defaults_of
from ldm.schedulers.spec import Spec


def as_stock_reads(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler config as StableDiffusionPipeline takes it, which rewrites two of its keys.

    Whatever the file says, latents are not clipped and grids are offset by 1.
    """
    accepted = defaults_of(str(config.get("_class_name")))
    rewritten = {"clip_sample": False, "steps_offset": 1}
    return dict(config) | {key: rewritten[key] for key in rewritten if key in accepted}


def stock_scheduler(spec: Spec, num_inference_steps: int | None = None) -> dict[str, Any]:
    """The scheduler config with which stock pipelines sample as `spec` does, also in so many steps.

    Raises UserError, with the reason, where there is none.
    """
    config = spec.to_diffusers(num_inference_steps)
    if (name := config["_class_name"]).startswith("FlowMatch"):
        raise UserError(
            f"stock pipelines cannot run {name}, which samples with {spec.sampler} here; take "
            "another sampler, such as dpmpp_2m, or another grid, to sample there as well"
        )
    written = as_stock_reads(config)
    if Spec.from_diffusers(written) != Spec.from_diffusers(config):
        raise UserError(
            "stock pipelines neither clip latents nor offset their grids by other than 1, and this "
            "scheduler does: it would sample differently there, so it is not exported"
        )
    return written


def export_refusal(spec: Spec, num_inference_steps: int | None = None) -> str | None:
    """Why stock pipelines cannot sample as `spec` does; None where they can."""
    try:
        stock_scheduler(spec, num_inference_steps)
    except UserError as error:
        return str(error)
    return None
