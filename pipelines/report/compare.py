"""The sections of a comparison of runs; each is "" where no run has anything to show."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from html import escape

from ldm.evaluation.measurements import Measurement
from pipelines.evaluation.parts.adherence import Adherence
from pipelines.evaluation.parts.levels import Levels, series
from pipelines.evaluation.results import Reported
from pipelines.sheets.page import Series, charts
from pipelines.sheets.pieces import (
    curves,
    grid,
    interval,
    name_of,
    read_picture,
    thinned,
    webp,
)

Runs = Sequence[Reported]
MOVING = ("fd", "cmmd", "recall", "coverage")  # with the number of samples
LOWER = ("fd", "fd_infinity", "kid", "cmmd")  # is better


def differences(runs: Runs) -> str:
    """The settings that are not the same in all runs."""
    flat = [_flat(vars(told.run.config)) for told in runs]
    keys = dict.fromkeys(key for one in flat for key in one if key not in ("name", "output"))
    rows = [
        [f"<code>{escape(key)}</code>", *(_text(one.get(key, "")) for one in flat)]
        for key in keys
        if len({one.get(key) for one in flat}) > 1
    ]
    if not rows:
        return "<p>The configurations are the same.</p>"
    return grid(("setting", *(told.name for told in runs)), rows)


def _flat(node: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in node.items():
        inner = vars(value) if is_dataclass(value) else value
        if isinstance(inner, Mapping):
            found |= _flat(inner, f"{prefix}{key}.")
        else:
            found[prefix + key] = str(value)
    return found


def _text(value: str) -> str:
    return f'<span class="text">{escape(value)}</span>'


def samples(runs: Runs) -> str:
    """The newest grid of each run, side by side."""
    figures = []
    for told in runs:
        newest = told.run.samples
        if newest is not None and (grid_of := read_picture(newest)) is not None:
            step = int(newest.stem.rsplit("_", 1)[-1])
            source, name = webp(grid_of, 800), escape(told.name)
            image = f'<img class="picture" src="{source}" alt="{name}">'
            said = f"{told.name}, step {step:,}"
            figures.append(f"<figure>{image}<figcaption>{escape(said)}</figcaption></figure>")
    return charts(figures) if figures else ""


def quality(runs: Runs) -> str:
    """Every metric of every run; a figure is bold where its interval is apart from all others'.

    None is where images or features differ, nor where a figure moves with the number of samples
    and those differ.
    """
    measured = [{m.name: m for part in told.parts for m, _ in part.figures()} for told in runs]
    names = list(dict.fromkeys(name for one in measured for name in one))
    abouts = [told.results.about for told in runs if told.results]
    setups = {json.dumps([one.features, one.resolution, one.images]) for one in abouts}
    rows = []
    for name in names:
        found = [one.get(name) for one in measured]
        best = best_of([m for m in found if m and m.defined]) if len(setups) == 1 else None
        cells = [interval(m) if m else "" for m in found]
        bold = [f"<b>{c}</b>" if m and m is best else c for m, c in zip(found, cells, strict=True)]
        rows.append([escape(name_of(name)), *bold])
    if not rows:
        return ""
    counts = [[m.n for m in one.values()][:1] for one in measured]
    rows.append(["samples", *(f"{n[0]:,}" if n else "" for n in counts)])
    table = grid(("", *(told.name for told in runs)), rows)
    if len(setups) == 1:
        return table + f'<p class="note">{escape(json.loads(setups.pop())[0])}</p>'
    said = "Measured with different features or against different images: not comparable."
    return table + f'<p class="ill">{said}</p>'


def best_of(found: Sequence[Measurement]) -> Measurement | None:
    """The one that is better than all others beyond both intervals, if there is one."""
    if len(found) < 2 or (found[0].name in MOVING and len({m.n for m in found}) > 1):
        return None
    if found[0].name in LOWER:
        best = min(found, key=lambda m: m.value)
        apart = all(best.interval[1] < m.interval[0] for m in found if m is not best)
    else:
        best = max(found, key=lambda m: m.value)
        apart = all(best.interval[0] > m.interval[1] for m in found if m is not best)
    return best if apart else None


def prompts(runs: Runs) -> str:
    """Adherence of every run by what was asked for."""
    rows: dict[str, list[str]] = {}
    for i, told in enumerate(runs):
        found = told.part(Adherence)
        for row in found.samples if found else ():
            cells = rows.setdefault(row.prompt, [""] * len(runs))
            low, high = row.interval
            cells[i] = f"{row.share:.0%} <small>[{low:.0%}, {high:.0%}]</small>"
    table = [[escape(prompt), *cells] for prompt, cells in rows.items()]
    return grid(("asked for", *(told.name for told in runs)), table) if table else ""


def training(runs: Runs) -> str:
    """Loss, validation loss and pace of every run over each other."""
    panels = []
    for key, said, log in (
        ("loss", "Training loss", True),
        ("validation/loss", "Held-out loss, on fixed images and noise", True),
        ("images_per_second", "Images per second", False),
    ):
        lines = []
        for told in runs:
            x, y = thinned(*told.run.series("ldm", key))
            lines.append(Series(told.name, x, y, dots=len(x) < 60))
        panels.append(curves(lines, "step", said, log_y=log))
    return charts([panel for panel in panels if panel])


def by_level(runs: Runs) -> str:
    """The held-out loss of every run by noise level, in the noise's own space.

    Squared errors of the outputs are not comparable between predictions; those of ε are.
    """
    found = {told.name: told.part(Levels) for told in runs}
    lines = [series(name, levels.held_out.eps) for name, levels in found.items() if levels]
    said = "Held-out squared error of the predicted noise by t, 0 clean and 1 noise"
    return charts([curves(lines, "t", said, log_y=True)]) if lines else ""


SECTIONS: dict[str, Callable[[Runs], str]] = {
    "What differs": differences,
    "Samples": samples,
    "Quality": quality,
    "Prompts": prompts,
    "Training": training,
    "Noise levels": by_level,
}
