"""Ways to do the same work, timed in turns: medians of ratios, and the table of them."""

import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

HEADINGS = ("time", "img/s", "× here", "× fastest here", "TFLOP/s", "of peak", "memory", "to begin")


def now() -> float:
    """Seconds, once the device has done all that it was asked to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def allocated() -> int:
    """Bytes that tensors hold on the GPU; 0 without one."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


@dataclass
class Way:
    """One way to do the work of a contest. `make` has it ready, warmed up, before that begins.

    `goal` is how many times as long it should take as the contest's first way, which is this
    project's; `pace` is how many images a second it should reach.
    """

    name: str
    make: Callable[[], Callable[[], Any]]
    images: int
    flops: float  # of the work
    dtype: torch.dtype
    ours: bool = False
    goal: float | None = None
    pace: float | None = None
    seconds: list[float] = field(default_factory=list)
    first: float = 0.0  # seconds of getting ready: copying, compiling, choosing kernels
    memory: int = 0  # bytes on the GPU at most, without what others hold there

    def ready(self) -> None:
        """Make what is needed."""
        before, start = allocated(), now()
        self._work = self.make()
        self.first, self._held = now() - start, allocated() - before

    def run(self, clock: Callable[[], float]) -> None:
        """Do the work once, timed."""
        before, start = allocated(), clock()
        if before:
            torch.cuda.reset_peak_memory_stats()
        self._work()
        self.seconds.append(clock() - start)
        if before:
            self.memory = torch.cuda.max_memory_allocated() - before + self._held

    def times(self, other: "Way") -> list[float]:
        """This way's time over the other's, of each round."""
        return [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]


def race(
    ways: Sequence[Way], seconds: float, clock: Callable[[], float] = now, least: int = 1
) -> None:
    """Rounds in which each works once, in an order that turns, until the time is up."""
    for way in ways:
        way.ready()
    end, rounds = now() + seconds, 0
    while rounds < least or now() < end:
        turn = rounds % len(ways)
        for way in (*ways[turn:], *ways[:turn]):
            way.run(clock)
        rounds += 1
    for way in ways:
        del way._work  # and the memory that it held
    gc.collect()


def matmul_peak(
    dtype: torch.dtype, device: torch.device, clock: Callable[[], float] = now, rounds: int = 5
) -> float:
    """FLOP/s of the fastest of some products of two square matrices."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    found = []
    for _ in range(rounds):
        start = clock()
        for _ in range(5):
            a @ b
        found.append(10 * n**3 / (clock() - start))
    return max(found)


def figures(ways: Sequence[Way], peaks: dict[torch.dtype, float]) -> list[dict[str, Any]]:
    """What the table says of each way of a contest, the first of which is the reference."""
    rows = []
    for way in ways:
        twin = next(w for w in ways if w.ours and w.dtype == way.dtype)
        fast = median(way.seconds)
        told = ("name", "seconds", "first", "memory", "goal", "pace")
        row = {key: getattr(way, key) for key in told} | {
            "dtype": str(way.dtype).removeprefix("torch."),
            "median": fast,
            "images_per_second": way.images / fast,
            "times_here": _spread(way.times(twin)),
            "times_fastest": _spread(way.times(ways[0])),
            "tflops": way.flops / fast / 1e12,
            "of_peak": way.flops / fast / peaks[way.dtype],
        }
        rows.append(row)
    return rows


def _spread(ratios: list[float]) -> list[float]:
    """Median, and both quartiles where there are several."""
    low, middle, high = quantiles(ratios, n=4, method="inclusive") if ratios[1:] else ratios * 3
    return [middle, low, high]


def fell_short(title: str, rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for each goal that was missed."""
    said = []
    for row in rows:
        what, ratio, pace = f"{title}: {row['name']}", row["times_fastest"][0], row["pace"]
        if row["goal"] and ratio < row["goal"]:
            said.append(f"{what} takes {ratio:.2f} times as long as here, not {row['goal']:g}")
        if pace and row["images_per_second"] < pace:
            said.append(f"{what} makes {row['images_per_second']:.3g} images/s, not {pace:g}")
    return said


def table(contests: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row for each way of each contest."""
    lines = [["", *HEADINGS], ["---"] * (1 + len(HEADINGS))]
    for title, rows in contests.items():
        lines.append([f"**{title}**, {len(rows[0]['seconds'])} rounds", *[""] * len(HEADINGS)])
        lines += [[f"{row['name']}, {row['dtype']}", *_cells(row)] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: dict[str, Any]) -> list[str]:
    def ratio(key: str) -> str:
        middle, low, high = row[key]
        return "1" if low == high == 1 else f"{middle:.2f} ({low:.2f}–{high:.2f})"

    return [
        f"{row['median']:.3g} s",
        f"{row['images_per_second']:.3g}",
        ratio("times_here"),
        ratio("times_fastest"),
        f"{row['tflops']:.3g}",
        f"{row['of_peak']:.0%}",
        f"{row['memory'] / 2**30:.1f} GiB" if row["memory"] else "–",
        f"{row['first']:.3g} s",
    ]


def write(out: Path, text: str, figures: dict[str, Any]) -> None:
    """`text` as `out`.md, the figures as `out`.json."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(text + "\n")
    out.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
