"""Averages of any length, chosen after training (Karras et al. 2024, EDM2, section 3).

While training runs, two averages with power-function profiles p(τ) ∝ τ^γ are kept and saved now and
then. Any other profile is nearly a linear combination of the saved ones, and so is its average; the
coefficients are a least-squares fit of the profiles, which needs no weights at all. A length is the
profile's relative standard deviation: 0.10 is an average over about the last tenth of training.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.errors import UserError

LENGTHS = (0.05, 0.10)  # of the averages that are kept while training
LONGEST = 0.288  # 1/√12: the flat profile, γ = 0


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
        folder.mkdir(parents=True, exist_ok=True)
        for length, average in self.averages.items():
            path = folder / f"step_{step:07d}_length_{length:.3f}.safetensors"
            temporary = path.with_suffix(".tmp")
            tensors = {k: v.cpu().contiguous() for k, v in zip(self.names, average, strict=True)}
            save_file(tensors, temporary, {"step": str(step), "length": str(length)})
            temporary.replace(path)

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


def forget_after(step: int, folder: Path) -> None:
    """Remove the snapshots of later steps: an abandoned attempt's, which no average may mix in."""
    for path in folder.glob("step_*_length_*.safetensors"):
        if int(path.name.split("_")[1]) > step:
            path.unlink()


def snapshots(folder: Path) -> list[Snapshot]:
    """All of a run, by step. Raises UserError where there are none."""
    found = []
    for path in sorted(folder.glob("step_*_length_*.safetensors")):
        with safe_open(path, "pt") as file:
            about = file.metadata()
        found.append(Snapshot(int(about["step"]), float(about["length"]), path))
    if not found:
        raise UserError(f"{folder} has no EMA snapshots: train with train.ema_snapshots=N")
    return found


def overlap(step_a: float, gamma_a: float, step_b: float, gamma_b: float) -> float:
    """∫ p_a p_b of two profiles that end at their steps: EDM2, eq. 151."""
    ratio = step_a / step_b
    power = ratio**gamma_b if step_a < step_b else ratio**-gamma_a
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return scale * power / max(step_a, step_b)


def coefficients(kept: Sequence[Snapshot], length: float, step: int) -> np.ndarray:
    """Weights of the kept averages whose sum has the profile nearest to (length, step)."""
    ends = [(s.step, exponent(s.length)) for s in kept]
    gram = np.array([[overlap(*a, *b) for b in ends] for a in ends])
    target = np.array([overlap(*a, step, exponent(length)) for a in ends])
    return np.linalg.lstsq(gram, target, rcond=1e-14)[0]


def reconstruct(folder: Path, length: float, step: int | None = None) -> dict[str, Tensor]:
    """The average of `length` after `step` steps (the last snapshot's unless given), float32.

    Raises UserError for a length or a step that the snapshots in `folder` do not reach.
    """
    every = snapshots(folder)
    last = every[-1].step
    step = last if step is None else step
    if not every[0].step <= step <= last:
        raise UserError(f"the snapshots in {folder} are of steps {every[0].step} to {last}")
    kept = [s for s in every if s.step <= step]
    total: dict[str, Tensor] = {}
    for snapshot, weight in zip(kept, coefficients(kept, length, step), strict=True):
        for name, value in _tensors(snapshot.path):
            part = value.double() * weight
            total[name] = total[name] + part if name in total else part
    return {name: value.float() for name, value in total.items()}


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            yield name, file.get_tensor(name)
