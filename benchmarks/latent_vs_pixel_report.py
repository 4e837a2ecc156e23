"""The table and the picture of latent_vs_pixel.py."""

import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

LECTURE = "512 × 512 × 3 = 786,432 elements against 64 × 64 × 4 = 16,384: 48 times fewer"
COLUMNS = {  # by heading: the figure, in which unit, and how many of it one is
    "elements": ("elements", "", 1),
    "parameters": ("parameters", "M", 1e-6),
    "activations": ("activations_gib", "GiB", 1),
    "peak memory": ("peak_gib", "GiB", 1),
    "training step": ("seconds_per_step", "ms", 1e3),
    "sampled image": ("seconds_per_sample", "ms", 1e3),
    "Fréchet distance": ("curve", "", 1),
}


def write(
    all_of: list[Any], floors: dict[int, float], judges: str, minutes: float, out: Path
) -> None:
    """The table and what it is of as `out`.md, the figures as .json, a competition as .png."""
    train, sample = all_of[0].config.train, all_of[0].config.sample
    text = (
        f"{table(all_of)}\n\nBatch {train.batch_size}, {sample.num_inference_steps} sampling steps "
        f"and decoding, mixed precision: {train.mixed_precision}. For reference: {LECTURE}.\n"
    )
    if floors:
        reals = ", ".join(f"{value:.3g} ({side} px)" for side, value in floors.items())
        text += (
            f"\n{minutes:g} minutes each; Fréchet distance {judges}, after a quarter, half and "
            f"all of them. As many training images are at {reals}.\n"
        )
    print(text)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(text)
    figures = [{"name": c.name, "resolution": c.resolution, **c.figures} for c in all_of]
    out.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    if floors:
        picture(all_of, floors).savefig(out.with_suffix(".png"), dpi=110)


def table(all_of: list[Any]) -> str:
    """Markdown: one row for each contestant, ratios to the latent one in brackets."""
    told = {k: v for k, v in COLUMNS.items() if any(v[0] in c.figures for c in all_of)}
    rows = [["", *told], ["---"] * (1 + len(told))]
    for c in all_of:
        base = next(d for d in all_of if d.resolution == c.resolution)
        cells = [_cell(c.figures, base.figures, *column) for column in told.values()]
        rows.append([f"{c.name}, {c.resolution} px", *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(figures: dict[str, Any], base: dict[str, Any], key: str, unit: str, scale: float) -> str:
    if key not in figures:
        return "out of memory" if "out_of_memory" in figures else "–"
    if key == "curve":
        return ", ".join(f"{p['frechet']:.3g} ({p['steps']} steps)" for p in figures[key])
    value = figures[key] * scale
    number = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    ratio = f"({figures[key] / base[key]:.1f}×)" if figures is not base and key in base else ""
    return " ".join(filter(None, (number, unit, ratio)))


def picture(all_of: list[Any], floors: dict[int, float]) -> Figure:
    """Samples of each that competed, and Fréchet distance against minutes."""
    shown = [c for c in all_of if c.samples is not None]
    figure = Figure(figsize=(12, 2.2 * len(shown) + 3.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[2.2 * len(shown), 3.2]).tolist()
    for axes, c in zip(above.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        axes.imshow(torch.cat(list(c.samples[:8]), dim=-1).permute(1, 2, 0).numpy())
        axes.set_title(f"{c.name}, {c.resolution} px, equal wall time", fontsize=9)
        axes.axis("off")
    panels = below.subplots(1, len(floors), squeeze=False)[0]
    for axes, (side, floor) in zip(panels, floors.items(), strict=True):
        for c in shown:
            if c.resolution == side:
                xs, ys = ([p[k] for p in c.figures["curve"]] for k in ("minutes", "frechet"))
                axes.plot(xs, ys, marker="o", label=c.name)
        axes.axhline(floor, color="grey", linestyle=":", label="real images")
        axes.set(xlabel="minutes", ylabel="Fréchet distance", title=f"{side} px", ylim=(0, None))
        axes.legend()
    return figure
