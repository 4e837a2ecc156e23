"""Whether a scheduler config, read back, says all that a Spec did."""

from typing import Any

import torch

from ldm.core.errors import UserError
from ldm.diffusion.samplers import SAMPLERS, Sampler
from ldm.diffusion.schedules import Discrete, Schedule

Options = dict[str, Any]
_ELSEWHERE = ("schedule_name", "schedule_args", "source")  # the same β may have two names
_MOVED = 2.1e-6  # of β, which the writer may move by two parts in a million


def refuse_loss(class_name: str, mine: Options, back: Options) -> None:
    """Raise UserError for the first field of a Spec, its β aside, that reads back otherwise."""
    for name in mine:
        said, read = _canonical(name, mine), _canonical(name, back)
        if name not in _ELSEWHERE and said != read:
            raise UserError(
                f"diffusers' {class_name} cannot express {name}={said!r} (it reads back as "
                f"{read!r}), so this model cannot be exported as it is"
            )


def refuse_other_betas(
    class_name: str, mine: Options, back: Options, tables: tuple[Schedule, Schedule]
) -> None:
    """Raise UserError where the tables (N,) that a Spec and its config visit differ in β.

    But for the last β, which a floor of ᾱ may stand for.
    """
    said, read = (table.betas[:-1] if isinstance(table, Discrete) else None for table in tables)
    if said is None or read is None:
        return
    if torch.allclose(said, read, rtol=_MOVED, atol=1e-12):
        return
    n, kept = int((read - said).abs().argmax()), back["schedule_args"]
    args = mine["schedule_args"].items()
    lost = ", ".join(f"{k}={v!r}"[:40] for k, v in args if k not in kept or kept[k] != v)
    raise UserError(
        f"{class_name} of diffusers loses {lost or 'the schedule'}: β of entry {n} would be "
        f"{read[n]:.2g} there and is {said[n]:.2g} here, so this model cannot be exported; take "
        "another sampler, such as euler"
    )


def _canonical(name: str, spec: Options) -> Any:
    """A field's value, the same for two ways to say one thing."""
    value = spec[name]
    if name == "grid_args":  # what float32 makes of a label is tried
        return {key: told for key, told in value.items() if key != "first"}
    unclipped = spec["clip"] is spec["thresholding"] is None
    if name == "sampler" and unclipped:
        return next(k for k, s in reversed(SAMPLERS.items()) if _same(s, SAMPLERS[value]))
    if name == "prediction_args" and spec["prediction_name"] == "edm":
        return {"sigma_data": 0.5, "sign": 1.0, **value}
    return value


def _same(a: Sampler, b: Sampler) -> bool:
    return (a.solve, a.options) == (b.solve, b.options)
