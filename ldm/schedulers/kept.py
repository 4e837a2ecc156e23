"""Whether a scheduler config, read back, says all that a Spec did."""

from typing import Any

from ldm.core.errors import UserError
from ldm.diffusion.samplers import SAMPLERS, Sampler

Options = dict[str, Any]
_ELSEWHERE = ("schedule_name", "schedule_args", "source")  # the same β may have two names


def refuse_loss(class_name: str, mine: Options, back: Options) -> None:
    """Raise UserError for the first field of a Spec that its config reads back otherwise."""
    for name in mine:
        said, read = _canonical(name, mine), _canonical(name, back)
        if name not in _ELSEWHERE and said != read:
            raise UserError(
                f"diffusers' {class_name} cannot express {name}={said!r} (it reads back as "
                f"{read!r}), so this model cannot be exported as it is"
            )


def _canonical(name: str, spec: Options) -> Any:
    """A field's value, the same for two ways to say one thing."""
    value = spec[name]
    unclipped = spec["clip"] is spec["thresholding"] is None
    if name == "sampler" and unclipped:
        return next(k for k, s in reversed(SAMPLERS.items()) if _same(s, SAMPLERS[value]))
    if name == "prediction_args" and spec["prediction_name"] == "edm":
        return {"sigma_data": 0.5, "sign": 1.0, **value}
    return value


def _same(a: Sampler, b: Sampler) -> bool:
    return (a.solve, a.options) == (b.solve, b.options)
