"""Loss by noise level: the curve that says which noise levels a network has learnt, and which not.

One training loss mixes all levels, and is dominated by how hard each one is. Here the images, their
noise and the levels are fixed, so two evaluations differ by the network alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from scipy.special import stdtrit
from torch import Tensor

from ldm.core import keyed
from ldm.core.files import written
from ldm.core.share import ALONE, Share
from ldm.evaluation.records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# (x0, eps, t, indices of the examples) -> losses (B,), each the mean over an example's elements
NetworkLoss = Callable[[Tensor, Tensor, Tensor, list[int]], Tensor]


@dataclass(frozen=True)
class LossByLevel:
    """Losses of the same examples at each of a few noise levels, least noisy first."""

    times: Tensor  # (L,) float64
    losses: Tensor  # (L, N) float64
    space: str = "output"  # what the squared error is of: the network's "output", "x0" or "eps"

    @property
    def mean(self) -> Tensor:
        """(L,), over the examples."""
        return self.losses.mean(1)

    @property
    def standard_error(self) -> Tensor:
        """(L,), of the mean; NaN for a single example."""
        return _error(self.losses)

    def interval(self, confidence: float = 0.95) -> Tensor:
        """Student's interval of the mean, (L, 2)."""
        half = stdtrit(max(1, self.losses.shape[1] - 1), 0.5 + confidence / 2) * self.standard_error
        return torch.stack([self.mean - half, self.mean + half], 1)

    @property
    def total(self) -> float:
        """The mean over levels and examples: the loss under the levels' own distribution."""
        return float(self.losses.mean())

    @property
    def total_standard_error(self) -> float:
        """Of `total`, over examples: the levels of one example are not independent."""
        return float(_error(self.losses.mean(0)))

    def scaled(self, gain: Tensor, space: str) -> "LossByLevel":
        """The losses of each level times `gain` (L,): the same errors seen in another space."""
        return replace(self, losses=self.losses * gain.double().cpu()[:, None], space=space)

    def curve(self) -> "Curve":
        """What a report needs."""
        return Curve(
            self.space,
            self.losses.shape[1],
            self.times.tolist(),
            self.mean.tolist(),
            self.standard_error.tolist(),
            self.interval().tolist(),
            self.total,
            self.total_standard_error,
        )


@dataclass(frozen=True)
class Curve(Record):
    """A loss by noise level, summed up over its examples; NaN is what one of them has not."""

    space: str
    examples: int
    t: list[float]  # (L,)
    mean: list[float]  # (L,)
    standard_error: list[float]  # (L,)
    interval: list[list[float]]  # (L, 2)
    total: float
    total_standard_error: float


def _error(values: Tensor) -> Tensor:
    """Standard error of the mean over the last dimension; NaN where that has one value."""
    n = values.shape[-1]
    return values.std(-1) / n**0.5 if n > 1 else torch.full_like(values.mean(-1), torch.nan)


def level_times(levels: int, quantile: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The middles (L,) of `levels` strata of t, least noisy first.

    `quantile` maps [0, 1) to t, as a time sampler does: it puts t on the table of a discrete
    schedule, and spreads the levels as training spreads its own.
    """
    middles = (torch.arange(levels, dtype=torch.float64) + 0.5) / levels
    return middles if quantile is None else quantile(middles).double()


@torch.no_grad()
def loss_by_level(
    network_loss: NetworkLoss,
    x0: Tensor | Sequence[Tensor],
    times: Tensor,
    seed: int,
    batch_size: int = 64,
    share: Share = ALONE,
    device: torch.device | str = "cpu",
) -> LossByLevel:
    """Evaluate `network_loss` for every example of `x0` (N, ...) at every one of `times` (L,).

    Noise is keyed by (seed, level, example): neither batch size nor the number of processes
    changes it. Each process fills in its batches' entries and leaves the others 0, so that the
    sum of their tables is exact.
    """
    pairs = [(level, i) for level in range(len(times)) for i in range(len(x0))]
    batches = [pairs[k : k + batch_size] for k in range(0, len(pairs), batch_size)]
    losses = torch.zeros(len(times), len(x0), dtype=torch.float64)
    for batch in share.mine(batches):
        levels, indices = [level for level, _ in batch], [i for _, i in batch]
        clean = torch.stack([x0[i] for i in indices]).to(device)
        noise = [keyed.normal(clean.shape[1:], seed, "level", level, i) for level, i in batch]
        eps = torch.stack(noise).to(clean)
        values = network_loss(clean, eps, times[levels], indices)
        assert values.shape == (len(batch),), "one loss for each example"
        losses[levels, indices] = values.cpu().double()
    return LossByLevel(times, share.total(losses))


def plot(curves: Mapping[str, LossByLevel], path: Path | str | None = None) -> "Figure":
    """Loss against t, a line and its 95 % band for each named curve; written to `path` if given."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    positive = False
    for name, curve in curves.items():
        mean, low, high = (
            torch.where(y.isfinite(), y, torch.nan) for y in (curve.mean, *curve.interval().T)
        )
        positive |= bool((mean > 0).any())
        (line,) = axes.plot(curve.times, mean, marker="o", markersize=3, label=name)
        axes.fill_between(curve.times, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    spaces = sorted({curve.space for curve in curves.values()})
    axes.set(xlabel="t (0 clean, 1 noise)", ylabel=f"squared error of {', '.join(spaces)}")
    if positive:  # a run that diverges may have nothing that a logarithm could show
        axes.set(yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    if path is not None:
        with written(Path(path)) as file:
            figure.savefig(file, dpi=150)
    return figure
