"""Figures that know their error: each metric with N and an interval.

The interval is of the draw of the samples, the reference held fixed. It comes from random subsets
that each leave out a fifth of the samples (a delete-d jackknife: Shao & Wu 1989). A bootstrap with
replacement would see images twice, which neighbour and kernel metrics take for mode collapse.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ldm.core import keyed
from ldm.data.order import subset
from ldm.evaluation.adherence import wilson
from ldm.evaluation.frechet import Moments, frechet_distance, frechet_distances, moments
from ldm.evaluation.kernels import cmmds, kernel_distances
from ldm.evaluation.neighbours import MOST, neighbour_shares
from ldm.evaluation.records import Record, jsonable

FEWEST = 20  # images that a distribution can be told from
Z = 1.959963984540054  # 95 %
KEPT = 0.8  # of the samples, in each subset that an interval is made of
NEIGHBOURLY = ("precision", "recall", "density", "coverage")
NEIGHBOURS = (3, 5)  # of precision and recall, of density and coverage
SHARES = ("precision", "recall", "coverage", "copied", "adherence")
LINEAR = (0.75, 1.35)  # FD's growth from N/2 to N/4 over what a line in 1/N predicts


@dataclass(frozen=True)
class Measurement(Record):
    """One figure, its standard error over draws of its N samples, and what it was made with.

    What is not defined, such as the spread of one image, is NaN here and null in JSON; the note
    says why.
    """

    name: str
    value: float
    standard_error: float
    n: int
    features: str = ""
    note: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        """Normal, at 95 %; that of a share stays in [0, 1]."""
        low, high = self.value - Z * self.standard_error, self.value + Z * self.standard_error
        if self.name not in SHARES or not self.defined:
            return low, high
        if self.value in (0.0, 1.0) or math.isnan(
            low
        ):  # where no subset says anything else: Wilson's
            return wilson(round(self.value * self.n), self.n)
        return max(0.0, low), min(1.0, high)

    def summary(self) -> dict[str, Any]:
        """As JSON, with the ends of the interval."""
        low, high = self.interval
        return jsonable({**vars(self), "low": low, "high": high})

    @property
    def defined(self) -> bool:
        return math.isfinite(self.value)

    def shown(self, form: str) -> str:
        """The value in the format `form`, and a dash where it is not defined."""
        return shown(self.value, form)


def undefined(name: str, n: int, features: str, why: str) -> Measurement:
    """A figure that N images do not have."""
    return Measurement(name, math.nan, math.nan, n, features, f"not defined: {why}")


def shown(value: float, form: str) -> str:
    """A figure in the format `form`, and a dash where it is not defined."""
    return format(value, form) if math.isfinite(value) else "–"


def subsets(n: int, kept: float, count: int, seed: int) -> Tensor:
    """Random subsets of n, of the share `kept`: bool (count, n)."""
    masks = torch.zeros(count, n, dtype=torch.bool)
    for k in range(count):
        order = torch.randperm(n, generator=keyed.generator(seed, "subset", round(kept * n), n, k))
        masks[k, order[: round(kept * n)]] = True
    return masks


def jackknife(of_subsets: Tensor, n: int) -> float:
    """Standard error of a figure of n samples, from its values (R,) on subsets(n, KEPT, R)."""
    kept = round(KEPT * n)
    if kept == n or len(of_subsets) < 2:
        return math.nan  # no image can be left out
    spread = (of_subsets - of_subsets.mean()).square().mean()
    return float((spread * kept / (n - kept)).sqrt())


def mean_measurement(
    name: str, values: Tensor, features: str = "", unit: str = "image"
) -> Measurement:
    """Of figures (n,) that each image, or other unit, has by itself, such as its CLIP score."""
    x, n = values.double(), len(values)
    if not n:
        return undefined(name, 0, features, f"there is no {unit}")
    if n == 1:
        return Measurement(name, float(x[0]), math.nan, 1, features, f"one {unit} has no spread")
    return Measurement(name, float(x.mean()), float(x.std() / n**0.5), n, features)


def frechet_measurements(
    x: Tensor, reference: Moments, masks: Tensor, seed: int = 0, label: str = ""
) -> list[Measurement]:
    """FD at this N, and FD∞: its limit for ever more samples, where that can be told.

    FD is biased upwards by about c/N (Chong & Forsyth 2020), which 2·FD(N) - FD(N/2) is free of.
    Quarters tell whether the growth is linear in 1/N; where it is not, the limit is not given.
    """
    n = len(x)
    if min(n, reference.n) < 2:
        return [undefined("fd", n, label, "a covariance takes two images on either side")]
    value = frechet_distance(moments(x), reference)
    error = math.nan if n < 3 else jackknife(frechet_distances(x, reference, masks), n)
    result = [Measurement("fd", value, error, n, label)]
    if round(n / 4) < 2:
        return result
    half, quarter = (
        float(frechet_distances(x, reference, subsets(n, share, len(masks), seed)).mean())
        for share in (1 / 2, 1 / 4)
    )
    predicted = 2 * (half - value)
    if predicted and LINEAR[0] < (quarter - half) / predicted < LINEAR[1]:
        limit = 2 * value - half
        result.append(Measurement("fd_infinity", limit, error, n, label, "2 FD(N) - FD(N/2)"))
    return result


def measure(
    x: Tensor,
    reference: Tensor,
    label: str = "",
    seed: int = 0,
    resamples: int = 100,
    of_reference: Moments | None = None,
) -> list[Measurement]:
    """Every metric on features (n, D) of samples against those (m, D) of the reference.

    Any n and m from 1: a figure that they are too few for is not defined.
    """
    n, m, most = len(x), len(reference), min(len(x), MOST)
    masks = subsets(n, KEPT, resamples, seed)
    result = frechet_measurements(x, of_reference or moments(reference), masks, seed, label)

    def add(name: str, of_all_and_subsets: Tensor, count: int) -> None:
        value = float(of_all_and_subsets[0])
        if not math.isfinite(value):
            result.append(undefined(name, count, label, "features without a direction"))
            return
        error = jackknife(of_all_and_subsets[1:], count)
        result.append(Measurement(name, value, error, count, label))

    every = torch.ones(1, n, dtype=torch.bool)
    masks = torch.cat([every, masks])
    if min(n, m) < 2:
        result.append(undefined("kid", n, label, "it takes two images on either side"))
    else:
        add("kid", kernel_distances(x, reference, masks), n)
    add("cmmd", cmmds(x, reference, masks), n)
    if most < n:
        masks = torch.cat([every[:, :most], subsets(most, KEPT, resamples, seed)])
    some, others = (f[subset(len(f), MOST, seed)] for f in (x, reference))
    if round(KEPT * most) <= NEIGHBOURS[0] or len(others) <= NEIGHBOURS[1]:
        why = f"{most} images against {len(others)} have too few neighbours"
        return result + [undefined(name, most, label, why) for name in NEIGHBOURLY]
    for name, values in neighbour_shares(some, others, masks, *NEIGHBOURS).items():
        add(name, values, most)
    return result


NAMES = {
    "fd": "Fréchet distance",
    "fd_infinity": "Fréchet distance, N → ∞",
    "kid": "KID",
    "cmmd": "CMMD",
    "clip_score": "CLIP score",
    "bits_per_dim": "bits per dimension",
    "bits_prior": "  of the prior",
    "bits_steps": "  of the steps",
    "bits_reconstruction": "  of the last step",
}


def table(columns: Mapping[str, Sequence[Measurement]]) -> str:
    """Plain text: a row for each metric, value and interval for each column, then the features."""
    names = list(dict.fromkeys(m.name for rows in columns.values() for m in rows))
    order = list(NAMES)
    names.sort(key=lambda name: order.index(name) if name in NAMES else len(order))
    titles = [f"{title} (N = {rows[0].n})" for title, rows in columns.items()]
    width = max(len(NAMES.get(name, name)) for name in names)
    lines = [f"{'':{width}}" + "".join(f"  {title:>31}" for title in titles)]
    for name in names:
        line = f"{NAMES.get(name, name):{width}}"
        for rows in columns.values():
            found = [m for m in rows if m.name == name]
            line += f"  {_cell(found[0]) if found else '':>31}"
        lines.append(line.rstrip())
    features = dict.fromkeys(m.features for rows in columns.values() for m in rows if m.features)
    notes = dict.fromkeys(
        f"{NAMES.get(m.name, m.name).strip()}: {m.note}"
        for rows in columns.values()
        for m in rows
        if not m.defined
    )
    return "\n".join([*lines, *notes, *(f"features: {label}" for label in features)])


def _cell(m: Measurement) -> str:
    if not m.defined:
        return "–"
    low, high = (shown(end, ".4g") for end in m.interval)
    return f"{m.value:.4g} [{low}, {high}]"
