"""The table and the picture of latent_vs_pixel.py."""

from typing import Any

import torch
from matplotlib.figure import Figure


def table(all_of: list[Any]) -> str:
    """Markdown: one row for each contestant, ratios to the latent one in brackets."""
    head = ["", "elements", "parameters", "activations", "peak memory", "training step"]
    head += ["sampled image", "Fréchet distance"]
    rows = [head, ["---"] * len(head)]
    for c in all_of:
        base = next(d for d in all_of if d.resolution == c.resolution).figures
        f = c.figures

        def cell(key: str, unit: str, scale: float = 1, f: Any = f, base: Any = base) -> str:
            if key not in f:
                return "out of memory" if f.get("out_of_memory") else "–"
            ratio = f"({f[key] / base[key]:.1f}×)" if f is not base and key in base else ""
            value = f[key] * scale
            number = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
            return " ".join(filter(None, (number, unit, ratio)))

        curve = f.get("curve")
        rows.append(
            [
                f"{c.name}, {c.resolution} px",
                cell("elements", ""),
                cell("parameters", "M", 1e-6),
                cell("activations_gib", "GiB"),
                cell("peak_gib", "GiB"),
                cell("seconds_per_step", "ms", 1e3),
                cell("seconds_per_sample", "ms", 1e3),
                ", ".join(f"{p['frechet']:.3g} ({p['steps']} steps)" for p in curve)
                if curve
                else "–",
            ]
        )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def picture(all_of: list[Any], floors: dict[int, float]) -> Figure:
    """Samples of each that competed, and Fréchet distance against minutes."""
    shown = [c for c in all_of if c.samples is not None]
    resolutions = list(dict.fromkeys(c.resolution for c in shown))
    figure = Figure(figsize=(12, 2.2 * len(shown) + 3.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[2.2 * len(shown), 3.2]).tolist()
    for axes, c in zip(above.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        assert c.samples is not None
        axes.imshow(torch.cat(list(c.samples[:8]), dim=-1).permute(1, 2, 0).numpy())
        axes.set_title(f"{c.name}, {c.resolution} px, equal wall time", fontsize=9)
        axes.axis("off")
    for axes, r in zip(
        below.subplots(1, len(resolutions), squeeze=False)[0], resolutions, strict=True
    ):
        for c in shown:
            if c.resolution == r:
                curve = c.figures["curve"]
                xs, ys = ([p[k] for p in curve] for k in ("minutes", "frechet"))
                axes.plot(xs, ys, marker="o", label=c.name)
        axes.axhline(floors[r], color="grey", linestyle=":", label="real images")
        axes.set(xlabel="minutes", ylabel="Fréchet distance", title=f"{r} px", ylim=(0, None))
        axes.legend()
    return figure
