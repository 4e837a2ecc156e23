"""What flows through an autoencoder: whether float16 holds it, and whether a spot rules it."""

import math
from typing import NamedTuple

from diffusers.models import AutoencoderKL
from torch import Tensor, nn

from autoencoder.latents import decode, encode_moments

FP16_MAX = 65504.0
SPOT = 1000  # a spot is one in this many positions
RULING = 0.25  # share of a plane's energy


class Verdict(NamedTuple):
    """One question, its answer in a figure, and what to do where the answer is bad."""

    name: str
    ok: bool
    value: float
    text: str

    def __str__(self) -> str:
        return f"{'ok ' if self.ok else 'ILL'} {self.name}: {self.text}"


def judged(name: str, value: float, ok: bool, found: str, advice: str) -> Verdict:
    """A verdict that gives its advice only where something is wrong."""
    return Verdict(name, ok, value, found if ok else f"{found}; {advice}")


def energy_in_a_spot(x: Tensor) -> float:
    """Share of the energy (N, C, H, W) in the strongest thousandth of positions, the mean over N.

    The spot is at least one position. White noise has about the spot's own share.
    """
    energy = x.float().square().sum(1).flatten(1)
    strongest = energy.topk(math.ceil(energy.shape[1] / SPOT), dim=1).values
    return float((strongest.sum(1) / energy.sum(1).clamp(min=1e-30)).mean())


def activation_verdicts(vae: AutoencoderKL, pixels: Tensor) -> list[Verdict]:
    """Of one encoding and decoding of images (N, 3, R, R) in [−1, 1]."""
    largest, spots = [0.0], {"": 0.0}

    def look(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor):
            largest[0] = max(largest[0], float(output.detach().abs().max().nan_to_num(math.inf)))
        if isinstance(module, nn.GroupNorm) and inputs[0].ndim == 4:
            spots[name] = max(spots.get(name, 0.0), energy_in_a_spot(inputs[0].detach()))

    hooks = [
        m.register_forward_hook(lambda *call, name=n: look(name, *call))
        for n, m in vae.named_modules()
    ]
    try:
        decode(vae, encode_moments(vae, pixels).chunk(2, dim=1)[0])
    finally:
        for hook in hooks:
            hook.remove()
    return [_precision(largest[0]), _spot(*max(spots.items(), key=lambda item: item[1]))]


def _precision(largest: float) -> Verdict:
    return judged(
        "float16 is wide enough",
        largest,
        largest < FP16_MAX / 4,
        f"largest activation {largest:.3g}",
        f"float16 ends at {FP16_MAX:.0f} and a factor of 4 is the margin for other images: run "
        "this autoencoder in bfloat16 or float32",
    )


def _spot(where: str, share: float) -> Verdict:
    return judged(
        "no spot rules a norm",
        share,
        share < RULING,
        f"a thousandth of the positions has {share:.0%} of the energy before a norm",
        f"{where} divides by what that spot is, which shows as a speck and sets the contrast of "
        "everything else: give its groups more channels (autoencoder.model.norm_num_groups)",
    )
