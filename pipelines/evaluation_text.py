"""The results of an evaluation as plain text."""

from collections.abc import Sequence
from typing import Any

from ldm.evaluation.measurements import Measurement, table


def measurements(rows: Sequence[dict[str, Any]]) -> list[Measurement]:
    """Measurements as they stand in results.json."""
    names = Measurement.__dataclass_fields__
    return [Measurement(**{k: v for k, v in row.items() if k in names}) for row in rows]


def as_text(results: dict[str, Any]) -> str:
    """The results as plain-text tables."""
    blocks = []
    for name in ("metrics", "clip"):
        if name in results:
            titles = {"samples": "samples", "held-out images": "held_out"}
            columns = {title: measurements(results[name][key]) for title, key in titles.items()}
            columns = {title: rows for title, rows in columns.items() if rows}
            blocks.append(table(columns))
    if "adherence" in results:
        blocks.append(results["adherence"]["text"])
    if "levels" in results:
        blocks.append(_levels_text(results["levels"]))
    if "likelihood" in results:
        found = results["likelihood"]
        columns = {
            "bound": measurements(found["bound"]["terms"]),
            "probability flow": measurements([found["flow"]]),
        }
        blocks.append("bits per latent dimension, held out\n" + table(columns))
    if "memorisation" in results:
        found = results["memorisation"]
        each = [found[split] for split in ("samples", "held_out")]
        shares = [f"{row['value']:.1%} of {row['n']}" for row in each]
        blocks.append(
            "closer to a training image than that is to its own nearest: "
            f"{shares[0]} samples, {shares[1]} held-out images\n"
            f"searched: {found['searched']:,} of {found['training_images']:,} training images"
        )
    if "sweep" in results:
        blocks.append(_sweep_text(results["sweep"]))
    if "ema" in results:
        blocks.append(_ema_text(results["ema"]))
    for name, reason in results["missing"].items():
        blocks.append(f"{name}: none, because {reason}")
    return "\n\n".join(blocks)


def _levels_text(curves: dict[str, Any]) -> str:
    lines = ["squared error of the network's output, mean over all noise levels"]
    for name, curve in curves.items():
        seen = curve["output"]
        lines.append(f"{name:24} {seen['total']:.4f} ± {seen['total_standard_error']:.4f}")
    return "\n".join(lines)


def _sweep_text(sweep: dict[str, Any]) -> str:
    lines = [f"{'sampler':10} {'steps':>5} {'guidance':>8} {'evals':>6}  figures"]
    for point in sweep["points"]:
        lines.append(
            f"{point['sampler']:10} {point['steps']:5} {point['guidance']:8g} "
            f"{point['evaluations']:6}  {_figures(point)}"
        )
    lines.append(f"best: {sweep['best']}; as good and cheapest: "
                 f"{sweep['cheapest_within_1_percent']}")  # fmt: skip
    if left_out := sweep.get("left_out"):
        lines.append(f"left out, for want of steps in the schedule: {', '.join(left_out)}")
    return "\n".join(lines)


def _ema_text(ema: dict[str, Any]) -> str:
    lines = [f"{'EMA length':10} {'held-out loss':>15}  figures, by {ema['setting']}"]
    for row in ema["lengths"]:
        loss = f"{row['loss']:.4f} ± {row['loss_standard_error']:.4f}"
        lines.append(f"{row['length']:10g} {loss:>15}  {_figures(row)}")
    lines += [f"left out: {reason}" for reason in ema.get("left_out", {}).values()]
    return "\n".join(lines)


def _figures(row: dict[str, Any]) -> str:
    return "  ".join(f"{f['name']} {f['value']:.4g}" for f in row["figures"])
