"""Averages of any length, chosen after training (Karras et al. 2024, EDM2, section 3).

While training runs, two averages with power-function profiles p(τ) ∝ τ^γ are kept and saved now and
then. Any other profile is nearly a linear combination of the saved ones, and so is its average; the
coefficients are a least-squares fit of the profiles, which needs no weights at all. A length is the
profile's relative standard deviation: 0.10 is an average over about the last tenth of training.

The coefficients sum to one, or weights that stand still would shrink, and what is fitted are the
profiles' cumulative sums. For with e(τ) the difference of those of the fit and of the wish, the
average is off by -∫ e(τ) dθ(τ): where the weights θ walk at random that is √(mean of e²) of how far
they come, and it is never more than max |e| of their way. What no combination is near is refused.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.core.errors import UserError
from ldm.core.files import written
from ldm.core.fingerprint import feed

LENGTHS = (0.05, 0.10)  # of the averages that are kept while training
LONGEST = 0.288  # 1/√12: the flat profile, γ = 0
WORST = 0.003  # of √(mean of e²): three deviations of such a walk are within 1 % then
TRIED = (0.01, 0.02, 0.03, 0.05, 0.08, 0.10, 0.12, 0.15, 0.20, 0.25, LONGEST)  # to offer instead
POINTS = 4096  # of time, at most, at which profiles are compared
NAME = re.compile(r"step_(\d{7,})_length_(\d\.\d{3})\.safetensors")


def exponent(length: float) -> float:
    """γ of the profile whose relative standard deviation is `length`: EDM2, eq. 126.

    The positive root of γ³ + 7γ² + (16 - 1/σ²)γ + 12 - 1/σ². Raises UserError outside (0, 0.288].
    """
    if not 0 < length <= LONGEST + 1e-3:
        raise UserError(f"an EMA length must be over 0 and at most {LONGEST}, not {length}")
    inverse = length**-2
    return max(0.0, float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max()))


def decay(step: int, gamma: float) -> float:
    """β of the update after `step` >= 1 steps: (1 - 1/t)^(γ+1), EDM2 eq. 127."""
    return (1 - 1 / step) ** (gamma + 1)


class PowerEMA:
    """The two averages of the trained parameters of a module, in float32."""

    def __init__(self, module: nn.Module, lengths: Sequence[float] = LENGTHS) -> None:
        named = {k: p for k, p in module.named_parameters() if p.requires_grad}
        self.names, self.parameters = list(named), list(named.values())
        self.gammas = {length: exponent(length) for length in lengths}
        self.averages = {
            length: [p.detach().float().clone() for p in self.parameters] for length in lengths
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Fold in the weights after `step` >= 1 steps."""
        current = [p.detach().float() for p in self.parameters]
        for length, average in self.averages.items():
            torch._foreach_lerp_(average, current, 1 - decay(step, self.gammas[length]))

    def snapshot(self, folder: Path, step: int) -> None:
        """Save the averages as they are after `step` steps: one file each, whole or not there."""
        for length, average in self.averages.items():
            tensors = {k: v.cpu().contiguous() for k, v in zip(self.names, average, strict=True)}
            about = {"step": str(step), "length": str(length)}
            about |= {"sha256": _digest(tensors, about)}
            with written(folder / _name(step, length)) as path:
                save_file(tensors, path, about)

    def state_dict(self) -> dict[str, Tensor]:
        """For the checkpoint: "0.050/NAME" and so on."""
        return {
            f"{length:.3f}/{name}": value
            for length, average in self.averages.items()
            for name, value in zip(self.names, average, strict=True)
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for key, value in self.state_dict().items():
            if key not in state:
                raise UserError(
                    "this run has kept no averages so far: train.ema_snapshots must be set from "
                    "its first step on"
                )
            value.copy_(state[key])


class Snapshot(NamedTuple):
    """One saved average: the profile that ends at `step`."""

    step: int
    length: float
    path: Path


def _name(step: int, length: float) -> str:
    return f"step_{step:07d}_length_{length:.3f}.safetensors"


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 of all that a snapshot holds, in hex."""
    digest = sha256(repr((about["step"], about["length"])).encode())
    feed(digest, tensors)
    return digest.hexdigest()


def _named(folder: Path) -> dict[Path, int]:
    """The snapshots in a folder with the steps in their names; other files are not ours."""
    found = {path: NAME.fullmatch(path.name) for path in sorted(folder.glob("step_*"))}
    return {path: int(match[1]) for path, match in found.items() if match}


def forget_after(step: int, folder: Path) -> None:
    """Remove the snapshots of later steps: an abandoned attempt's, which no average may mix in."""
    for path, its_step in _named(folder).items():
        if its_step > step:
            path.unlink()


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What a snapshot says of itself, and its averages."""
    with safe_open(path, "pt") as file:
        names = file.keys()
        return file.metadata() or {}, {name: file.get_tensor(name) for name in names}


def _sound(path: Path) -> Snapshot:
    """The snapshot in a file. Raises ValueError, OSError or SafetensorError where it is damaged."""
    about, tensors = _read(path)
    if about.keys() not in ({"step", "length"}, {"step", "length", "sha256"}):
        raise ValueError("its header is not a snapshot's")
    # the first that were ever written had no checksum
    if "sha256" in about and about["sha256"] != _digest(tensors, about):
        raise ValueError("its checksum is not that of what it holds")
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise ValueError("it holds numbers that are not finite")
    snapshot = Snapshot(int(about["step"]), float(about["length"]), path)
    if path.name != _name(snapshot.step, snapshot.length):
        raise ValueError(f"it says that it is of step {snapshot.step}, length {snapshot.length}")
    return snapshot


def snapshots(folder: Path) -> list[Snapshot]:
    """The sound ones of a run, by step; those that are damaged are told in a warning.

    Reads every file. Raises UserError where there are none, or none of the last step.
    """
    every = _named(folder)
    if not every:
        raise UserError(f"{folder} has no EMA snapshots: train with train.ema_snapshots=N")
    sound, faults = [], {}
    for path in every:
        try:
            sound.append(_sound(path))
        except (ValueError, OSError, SafetensorError) as error:
            faults[path] = f"the EMA snapshot {path} is damaged: {error}"
            warnings.warn(f"{faults[path]}; it is left out", stacklevel=2)
    last = max(every.values())
    if last not in {s.step for s in sound}:
        said = next(fault for path, fault in faults.items() if every[path] == last)
        raise UserError(f"{said}; remove those of step {last} to have averages of what came before")
    return sorted(sound)


def _fit(kept: Sequence[Snapshot], length: float, step: int) -> tuple[np.ndarray, float]:
    """Weights (n,) that sum to one, and √(mean of e²): how far their profile is from the wish."""
    ends = np.array([(s.step, exponent(s.length)) for s in kept] + [(step, exponent(length))])
    times = np.union1d(np.linspace(0, step, min(step, POINTS) + 1).round(), ends[:, 0])
    span = np.diff(times, prepend=0.0) / step
    # weights change once a step, so the integral is a sum over the steps
    sums = np.minimum(times[:, None] / ends[:, 0], 1.0) ** (ends[:, 1] + 1)
    sums *= np.sqrt(span)[:, None]
    last, wish = sums[:, -2], sums[:, -1]
    found = np.linalg.lstsq(sums[:, :-2] - last[:, None], wish - last, rcond=1e-10)[0]
    weights = np.append(found, 1 - found.sum())
    return weights, float(np.linalg.norm(sums[:, :-1] @ weights - wish))


def coefficients(kept: Sequence[Snapshot], length: float, step: int) -> np.ndarray:
    """Weights of the kept averages, which sum to one, whose profile is nearest to (length, step).

    Raises UserError where it is further than WORST.
    """
    weights, error = _fit(kept, length, step)
    if error > WORST:
        near = [f"{other:g}" for other in TRIED if _fit(kept, other, step)[1] <= WORST]
        raise UserError(
            f"an EMA of length {length:g} after step {step} cannot be made of the {len(kept)} "
            f"averages saved up to step {kept[-1].step}: the nearest is off by {error:.1%} of how "
            f"far the weights come, and {WORST:.1%} is the most; "
            + (f"lengths that can be had: {', '.join(near)}; " if near else "")
            + "a smaller train.ema_snapshots reaches more of them"
        )
    return weights


def averaged(kept: Sequence[Snapshot], length: float, step: int | None = None) -> dict[str, Tensor]:
    """The average of `length` after `step` steps (the last one's unless given), float32.

    Raises UserError for a length or a step that the snapshots do not reach.
    """
    last = kept[-1].step
    step = last if step is None else step
    if not kept[0].step <= step <= last:
        raise UserError(
            f"the snapshots in {kept[0].path.parent} are of steps {kept[0].step} to {last}"
        )
    kept = [s for s in kept if s.step <= step]
    total: dict[str, Tensor] = {}
    for snapshot, weight in zip(kept, coefficients(kept, length, step), strict=True):
        _, tensors = _read(snapshot.path)
        if total and {k: v.shape for k, v in tensors.items()} != {
            k: v.shape for k, v in total.items()
        }:
            raise UserError(f"{snapshot.path} is of another network than the snapshots before it")
        for name, value in tensors.items():
            part = value.double() * weight
            total[name] = total[name] + part if name in total else part
    return {name: value.float() for name, value in total.items()}


def reconstruct(folder: Path, length: float, step: int | None = None) -> dict[str, Tensor]:
    """`averaged` of the sound snapshots in `folder`."""
    return averaged(snapshots(folder), length, step)
