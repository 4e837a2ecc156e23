"""What diffusers' classes do otherwise than their mathematics, each refused with its reason."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ldm.core.errors import UserError
from ldm.diffusion.denoise import drawn
from ldm.diffusion.plane import Denoiser, Label, Level, Noise, State
from ldm.diffusion.samplers import PURE_NOISE, SAMPLERS, Sampler, ancestral
from ldm.diffusion.schedules import Schedule, positions

Options = dict[str, Any]
MULTISTEP = ("DPM", "UniPC", "DEIS")  # how their names begin
CHOSEN = ("karras", "exponential", "beta", "log_linear")  # σ, between the ends of a spacing


def ddim_targets(
    label: Label, table: Schedule, levels: list[Level], part: Sequence[Level]
) -> list[Level] | None:
    """diffusers' DDIM steps from t to t - N//n, also where the next step starts elsewhere.

    None where `part` is not a part of the n steps down `levels`.
    """
    steps, targets = positions(table), []
    for level in levels[:-1]:
        index = label(level).round() - steps // (len(levels) - 1)
        targets.append(table.level((index + 1) / steps) if index >= 0 else levels[-1])
    own, times = ([float(level.t) for level in some] for some in (levels, part))
    first = own.index(times[0]) if times[0] in own else 0
    return targets[first:][: len(part) - 1] if own[first:][: len(part)] == times else None


def stock_ddim(
    targets: Sequence[Level],
    denoiser: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    noise: Noise | None = None,
    eta: float = 0.0,
) -> Iterator[State]:
    """DDIM whose steps end on `targets`, where the next one does not start from them."""
    for i, (a, b) in enumerate(zip(levels[:-1], targets, strict=True)):

        def draw(_: int, i: int = i) -> Tensor:
            return drawn(noise, i)

        (state,) = ancestral(denoiser, x, (a, b), draw, eta)
        x = state.x
        yield state


def few_steps(name: str | None, sampler: Sampler, options: Options, steps: int) -> Options:
    """DPM-Solver's classes end with a step of first order in fewer than 15 steps, and no more."""
    if name is None or "DPM" not in name or "lower_order_final" not in sampler.defaults:
        return {}
    return {"lower_order_final": options.get("lower_order_final", True) and steps < 15}


def refuse_quirks(name: str, fields: Mapping[str, Any], visited: list[Level], end: int) -> None:
    """Raise UserError where the class `name` gets a Spec's fields wrong, or has nothing for them.

    `visited` are some levels of its grid, on a schedule of `end` steps.
    """

    def refuse(what: str, instead: str) -> None:
        raise UserError(
            f"{name} of diffusers {what}, so this model would be sampled otherwise there: take "
            f"{instead}"
        )

    options = fields["sampler_args"]
    flow = fields["schedule_name"] == "flow" and name.startswith(MULTISTEP)
    if flow and fields["prediction_name"] == "v":
        refuse("takes v on a straight path for v on a curved one", "prediction flow")
    if name == "EulerAncestralDiscreteScheduler" and fields["prediction_name"] == "sample":
        refuse("has no prediction sample", "another sampler, such as dpmpp_2m_sde")
    infinite = name.startswith("UniPC") and fields["final"] == "clean"
    if infinite and not options.get("lower_order_final", True):
        refuse("ends in NaN where its last step is of second order", "lower_order_final=True")
    stochastic = SAMPLERS[fields["sampler"]].noise and name.startswith("DPM")
    if stochastic and fields["final"] != "clean" and fields["grid"] in CHOSEN:
        refuse(
            "ends with a step of no length, whose noise is NaN as often as not",
            "final_sigmas_type zero",
        )
    noisiest, cleanest = visited[0], visited[-2]
    noisy = options.get("variance", "small") != "small"
    if noisy and float(cleanest.t) * end > 1.5:
        refuse(
            f"with variance {options['variance']} adds noise to the finished sample, unless its "
            "last step is from entry 0",
            "grid linspace, or variance small",
        )
    if name == "HeunDiscreteScheduler" and noisiest.alpha < PURE_NOISE:
        refuse(
            f"goes astray from pure noise, where this schedule begins (α = "
            f"{float(noisiest.alpha):.1g})",
            "another sampler, or a schedule that keeps some signal",
        )


def refuse_twins(name: str, fields: Mapping[str, Any], visited: list[Level]) -> None:
    """Raise where a class takes the second step for the first, and falls off the end."""
    if name.startswith(MULTISTEP) and torch.equal(visited[0].t, visited[1].t):
        raise UserError(
            f"{name} of diffusers loses its place where two steps have one label, as grid "
            f"{fields['grid']} gives them at the noisy end of schedule {fields['schedule_name']}, "
            "so this model cannot be exported; take another grid, or a schedule that keeps some "
            "signal"
        )
