"""The results of an evaluation as plain text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm.core.errors import UserError
from ldm.core.sums import read_sealed
from ldm.evaluation.measurements import Measurement, shown, table


def measurements(rows: Sequence[dict[str, Any]]) -> list[Measurement]:
    """Measurements as they stand in results.json."""
    return [Measurement.read(row) for row in rows]


def read_results(folder: Path) -> dict[str, Any]:
    """What an evaluation has written into `folder`; {} where there is nothing yet.

    NaN, which older versions wrote for what is not defined, is null. Raises UserError where the
    results are damaged.
    """
    path = folder / "results.json"
    try:
        found = read_sealed(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, or evaluate again") from None
    return json.loads(json.dumps(found), parse_constant=lambda name: None)


def copies(found: dict[str, Any]) -> str:
    """What the training set holds more than once, and what of the held-out images it holds."""
    said = []
    if repeated := found.get("repeated"):
        said.append(
            f"{repeated:,} of the {found['searched']:,} training images are there more than once "
            f"({found['distinct']:,} distinct)"
        )
    if leaked := found.get("leaked"):
        said.append(f"{leaked:,} held-out images are training images too, and left out of this")
    return "; ".join(said)


def as_text(results: dict[str, Any]) -> str:
    """The results as plain-text tables."""
    blocks = []
    for name in ("metrics", "clip"):
        if name in results:
            titles = {"samples": "samples", "held-out images": "held_out"}
            columns = {title: measurements(results[name][key]) for title, key in titles.items()}
            columns = {title: rows for title, rows in columns.items() if rows}
            blocks.append(table(columns))
            blocks += [results[name]["note"]] if "note" in results[name] else []
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
        shares = [f"{shown(row['value'], '.1%')} of {row['n']}" for row in each]
        blocks.append(
            "closer to a training image than that is to its own nearest: "
            f"{shares[0]} samples, {shares[1]} held-out images\n"
            f"searched: {found['searched']:,} of {found['training_images']:,} training images"
            + (f"\n{said}" if (said := copies(found)) else "")
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
        lines.append(f"{name:24} {_with_error(seen['total'], seen['total_standard_error'])}")
    return "\n".join(lines)


def _sweep_text(sweep: dict[str, Any]) -> str:
    lines = [f"{'sampler':10} {'steps':>5} {'guidance':>8} {'evals':>6}  figures"]
    for point in sweep["points"]:
        lines.append(
            f"{point['sampler']:10} {point['steps']:5} {point['guidance']:8g} "
            f"{point['evaluations']:6}  {_figures(point)}"
        )
    if sweep["best"]:
        lines.append(f"best: {sweep['best']}; as good and cheapest: "
                     f"{sweep['cheapest_within_1_percent']}")  # fmt: skip
    if left_out := sweep.get("left_out"):
        lines.append(f"left out, for want of steps in the schedule: {', '.join(left_out)}")
    return "\n".join(lines)


def _ema_text(ema: dict[str, Any]) -> str:
    lines = [f"{'EMA length':10} {'held-out loss':>15}  figures, by {ema['setting']}"]
    for row in ema["lengths"]:
        loss = _with_error(row["loss"], row["loss_standard_error"])
        lines.append(f"{row['length']:10g} {loss:>15}  {_figures(row)}")
    lines += [f"left out: {reason}" for reason in ema.get("left_out", {}).values()]
    return "\n".join(lines)


def _figures(row: dict[str, Any]) -> str:
    return "  ".join(f"{f['name']} {shown(f['value'], '.4g')}" for f in row["figures"])


def _with_error(value: float | None, error: float | None) -> str:
    """A figure and its standard error, where it has one: that of one image has none."""
    return shown(value, ".4f") + (f" ± {error:.4f}" if error is not None else "")
