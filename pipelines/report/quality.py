"""The sections of a report that show an evaluation's results; each is "" where there are none."""

import math
from html import escape
from typing import Any

from pipelines.evaluation.text import copies, measurements
from pipelines.report.reported import Reported
from pipelines.sheets.page import Series, charts
from pipelines.sheets.pieces import (
    curves,
    grid,
    interval,
    name_of,
    numbers,
    picture,
    span_of,
    thinned,
    whisker,
)


def quality(told: Reported) -> str:
    """Every metric, beside that of held-out images, with intervals."""
    rows = []
    for section in ("metrics", "clip"):
        made, real = told.measured(section), told.measured(section, "held_out")
        for name, m in made.items():
            r = real.get(name)
            ends = [end for one in (m, r) if one and one.defined for end in one.interval]
            ends = [end for end in ends if math.isfinite(end)] or [0.0]
            span = (min(ends), max(ends))
            cells = [escape(name_of(name)), interval(m), whisker(m, span)]
            cells += [interval(r), whisker(r, span)] if r else ["", ""]
            rows.append([*cells, f"{m.n}" + (f", {r.n}" if r and r.n != m.n else "")])
    if not rows:
        return ""
    found = told.results
    note = (
        f"Against {found['metrics']['reference']:,} training images with {found['features']}. "
        "Intervals are of the draw of the samples, at 95 %; Fréchet distances at different N are "
        "not comparable."
        if "metrics" in found
        else ""
    )
    head = ("", "samples", "", "held-out images", "", "N")
    return grid(head, rows) + f'<p class="note">{escape(note)}</p>'


def prompts(told: Reported) -> str:
    """Adherence by what was asked for."""
    found = told.results.get("adherence", {})
    real = {row["prompt"]: row for row in found.get("held_out", [])}
    rows = []
    for row in found.get("samples", []):
        seen = ", ".join(f"{value}: {n}" for value, n in list(row["seen"].items())[:4])
        other = real.get(row["prompt"])
        rows.append(
            [
                escape(row["prompt"]),
                f"{row['share']:.0%} <small>of {row['n']}</small>",
                span_of(row["low"], row["share"], row["high"], (0, 1)),
                f"{other['share']:.0%} <small>of {other['n']}</small>" if other else "",
                escape(seen),
            ]
        )
    head = ("asked for", "samples", "0 to 100 %", "real images", "samples show")
    return grid(head, rows) if rows else ""


def _swept(points: list[dict[str, Any]], x: str, figure: str) -> list[Series]:
    """A curve of one figure for each sampler."""
    lines: dict[str, list[tuple[float, float, float, float]]] = {}
    for point in sorted(points, key=lambda p: p[x]):
        for m in measurements(point["figures"]):
            if m.name == figure:
                lines.setdefault(point["sampler"], []).append((point[x], m.value, *m.interval))
    series = []
    for sampler, rows in lines.items():
        x_values, values, low, high = (list(column) for column in zip(*rows, strict=True))
        series.append(Series(sampler, x_values, values, low, high, dots=True))
    return series


def sampling(told: Reported) -> str:
    """Samplers and steps, guidance, and the whole table."""
    found = told.results.get("sweep")
    if not found:
        return ""
    points, own = found["points"], told.results["setting"]["guidance"]
    by_cost = [p for p in points if p["guidance"] == own]
    one = [p for p in points if (p["sampler"], p["steps"]) == ("dpmpp_2m", 20)]
    said = "the same prompts and noise throughout"
    both = [s._replace(name=n) for n in ("precision", "recall") for s in _swept(one, "guidance", n)]
    panels = [
        curves(_swept(by_cost, "evaluations", "fd"), "network evaluations an image",
               f"Fréchet distance, guidance {own:g}, {said}", log_x=True),
        curves(_swept(by_cost, "evaluations", "adherence"), "network evaluations an image",
               "Prompt adherence", log_x=True),
        curves(_swept(one, "guidance", "fd"), "guidance scale", "Fréchet distance by guidance"),
        curves(_swept(one, "guidance", "adherence"), "guidance scale", "Adherence by guidance"),
        curves(both, "guidance scale", "Precision and recall by guidance"),
    ]  # fmt: skip
    names = list(dict.fromkeys(f["name"] for p in points for f in p["figures"]))
    rows = []
    for p in points:
        values = {m.name: interval(m) for m in measurements(p["figures"])}
        cells = [escape(p["sampler"]), p["steps"], f"{p['guidance']:g}", p["evaluations"]]
        rows.append([str(c) for c in cells] + [values.get(name, "") for name in names])
    head = ("sampler", "steps", "guidance", "evaluations", *map(name_of, names))
    table = f"<details><summary>All settings, {found['samples']} samples each</summary>"
    return charts([p for p in panels if p]) + table + grid(head, rows) + "</details>"


def likelihood(told: Reported) -> str:
    """Bits per latent dimension."""
    found = told.results.get("likelihood")
    if not found:
        return ""
    terms = measurements(found["bound"]["terms"])
    rows = [[escape(name_of(m.name)), interval(m), str(m.n)] for m in terms]
    flow = measurements([found["flow"]])[0]
    rows.append(["by the probability flow", interval(flow), str(flow.n)])
    steps = Series("bits of a step", found["bound"]["t"], numbers(found["bound"]["steps"]))
    said = "Where the bits go: each step of the bound, by the noise it starts from"
    chart = curves([steps], "t", said, log_y=True)
    return grid(("held-out latents", "bits per dimension", "N"), rows) + charts([chart])


def _cumulative(name: str, ratios: list[float]) -> Series:
    values = sorted(ratios)
    y = [(i + 1) / len(values) for i in range(len(values))]
    return Series(name, *thinned(values, y))


def memorisation(told: Reported) -> str:
    """The samples that look most like training images, and how unusual they are."""
    found = told.results.get("memorisation")
    if not found:
        return ""
    lines = [
        _cumulative("samples", found["ratios"]),
        _cumulative("held-out images", found["held_out_ratios"]),
    ]
    said = (
        "Share of images nearer than this to a training image; 1 is as near as that training image "
        f"is to its own nearest other one ({found['searched']:,} of {found['training_images']:,} "
        "training images searched)"
    )
    shown = "The samples nearest to training images (left), those images (right), and the ratio"
    said_of_copies = copies(found)
    return (
        picture(told.evaluation / "nearest.png", shown)
        + charts([curves(lines, "ratio", said)])
        + (f'<p class="note">{escape(said_of_copies)}</p>' if said_of_copies else "")
    )


def averages(told: Reported) -> str:
    """The sweep over EMA lengths."""
    found = told.results.get("ema")
    if not found:
        return ""
    rows = found["lengths"]
    x = [row["length"] for row in rows]
    loss = Series("held-out loss", x, numbers([row["loss"] for row in rows]), dots=True)
    fd = [m.value for row in rows for m in measurements(row["figures"]) if m.name == "fd"]
    return charts(
        [
            curves([loss], "EMA length, relative to the run", "Held-out loss by EMA length"),
            curves([Series("FD", x, fd, dots=True)], "EMA length", f"FD, {found['setting']}"),
        ]
    ) + "".join(f'<p class="note">{escape(why)}</p>' for why in found.get("left_out", {}).values())
