"""What a config says of the diffusion process, checked before anything is built from it."""

from collections.abc import Mapping
from typing import Any

from ldm.diffusion.plane import edm
from ldm.diffusion.samplers import SAMPLERS
from ldm.schedulers.floor import SCHEDULES
from ldm.settings.arguments import refuse_arguments, refuse_no_schedule


def refuse_process(config: Any, sampler: str, sampler_args: Mapping[str, Any] | None) -> None:
    """Raise UserError for an argument that a schedule, a prediction or a sampler cannot use.

    Unknown names of either are left to what looks them up.
    """
    make = SCHEDULES.get(config.schedule)
    if make is not None:
        refuse_arguments("diffusion.schedule_args", make, config.schedule_args)
        try:
            schedule = make(**config.schedule_args)
        except TypeError:
            return
        refuse_no_schedule("diffusion.schedule_args", schedule)
    refuse_arguments("diffusion.prediction_args", edm, getattr(config, "prediction_args", {}))
    refuse_arguments("sample.sampler_args", SAMPLERS[sampler].solve, sampler_args or {})
