"""What the figures of an evaluation say, in sentences, and what to do about it."""

import math
from typing import Any

from ldm.evaluation.measurements import Measurement
from pipelines.evaluation.text import copies, measurements


def findings(results: dict[str, Any]) -> list[str]:
    """One sentence or two for each thing that the results can tell; [] for no results."""
    rules = (_distance, _fidelity, _diversity, _overfitting, _average, _prompts, _copies, _sampling)
    return [text for rule in rules if (text := rule(results))]


def _both(
    results: dict[str, Any], section: str, name: str
) -> tuple[Measurement, Measurement] | None:
    found = results.get(section, {})
    pair = []
    for split in ("samples", "held_out"):
        rows = [m for m in measurements(found.get(split, [])) if m.name == name]
        if not rows or not rows[0].defined:
            return None
        pair.append(rows[0])
    return pair[0], pair[1]


def _apart(a: Measurement, b: Measurement) -> float:
    """How many standard errors lie between two figures; 0 where those are not defined."""
    error = (a.standard_error**2 + b.standard_error**2) ** 0.5
    return 0.0 if math.isnan(error) else (a.value - b.value) / max(1e-12, error)


def _distance(results: dict[str, Any]) -> str | None:
    pair = _both(results, "metrics", "kid")
    if pair is None:
        return None
    made, real = pair
    if _apart(made, real) < 2:
        return (
            f"By KID ({made.value:.3g}) samples cannot be told from held-out images "
            f"({real.value:.3g}): to see a difference, evaluate with more samples."
        )
    return (
        f"KID, whose expectation does not depend on N, is {made.value:.3g} for samples and "
        f"{real.value:.3g} for held-out images: samples can still be told from real ones."
    )


def _fidelity(results: dict[str, Any]) -> str | None:
    pair = _both(results, "metrics", "precision")
    if pair is None or _apart(*pair) > -2:
        return None
    made, real = pair
    return (
        f"Of the samples {made.value:.0%} look like training images, of held-out images "
        f"{real.value:.0%}: fidelity is lost. More training, a larger U-Net or more guidance help."
    )


def _diversity(results: dict[str, Any]) -> str | None:
    pair = _both(results, "metrics", "recall")
    if pair is None or _apart(*pair) > -2:
        return None
    made, real = pair
    return (
        f"Samples reach {made.value:.0%} of the training images, held-out images {real.value:.0%}: "
        "variety is lost. Less guidance, or longer training, brings it back."
    )


def _overfitting(results: dict[str, Any]) -> str | None:
    curves = results.get("levels", {})
    if not {"train", "held out"} <= curves.keys():
        return None
    held, train = curves["held out"]["output"], curves["train"]["output"]
    keys = ("total", "total_standard_error")
    if any(curve[key] is None for curve in (held, train) for key in keys):
        return None  # one image, or a network that has diverged
    gap = held["total"] - train["total"]
    error = (held["total_standard_error"] ** 2 + train["total_standard_error"] ** 2) ** 0.5
    if gap < 2 * error:
        return (
            f"The held-out loss, {held['total']:.4f}, is within its error of the training loss, "
            f"{train['total']:.4f}: no overfitting yet, so a longer run or a larger network pays."
        )
    ratios = [h / t if h and t else 1.0 for h, t in zip(held["mean"], train["mean"], strict=True)]
    worst = max(range(len(ratios)), key=ratios.__getitem__)
    return (
        f"The held-out loss is {gap / train['total']:.0%} above the training loss, most at "
        f"t = {held['t'][worst]:.2f} ({ratios[worst] - 1:.0%}): the network knows its training "
        "images. More images or crops, dropout, or an earlier stop help; a longer run does not."
    )


def _average(results: dict[str, Any]) -> str | None:
    curves = results.get("levels", {})
    raw, averaged = curves.get("held out, without EMA"), curves.get("held out")
    if not raw or not averaged:
        return None
    if averaged["output"]["total"] is None or not raw["output"]["total"]:
        return None
    gain = 1 - averaged["output"]["total"] / raw["output"]["total"]
    if abs(gain) < 0.002:
        return None
    verb = "lowers" if gain > 0 else "raises"
    advice = "" if gain > 0 else ": it is too long for this run"
    return f"Averaging the weights {verb} the held-out loss by {abs(gain):.1%}{advice}."


def _prompts(results: dict[str, Any]) -> str | None:
    found = results.get("adherence")
    if not found:
        return None
    shares = {}
    for split in ("samples", "held_out"):
        rows = found[split]
        measure = rows[0]["measure"] if rows else ""
        rows = [row for row in rows if row["measure"] == measure]
        n = sum(row["n"] for row in rows)
        shares[split] = sum(row["right"] for row in rows) / n if n else None
    if shares["samples"] is None or shares["held_out"] is None:
        return None
    return (
        f"{shares['samples']:.0%} of the samples whose prompt names a colour have it; of real "
        f"images, by the same measure, {shares['held_out']:.0%}."
    )


def _copies(results: dict[str, Any]) -> str | None:
    pair = _both({"m": _wrapped(results)}, "m", "copied")
    told = copies(results.get("memorisation", {}))
    told = f" {told[0].upper()}{told[1:]}." if told else ""
    if pair is None:
        return told.strip() or None
    made, real = pair
    verdict = (
        "more than chance: look at the pairs below" if _apart(made, real) > 2 else "no copying"
    )
    return (
        f"{made.value:.0%} of the samples are closer to a training image than that is to its own "
        f"nearest neighbour; of held-out images, which are no copies, {real.value:.0%}: {verdict}."
        + told
    )


def _wrapped(results: dict[str, Any]) -> dict[str, Any]:
    found = results.get("memorisation", {})
    return {split: [found[split]] for split in ("samples", "held_out") if split in found}


def _sampling(results: dict[str, Any]) -> str | None:
    found = results.get("sweep")
    if not found:
        return None
    best, cheapest = found["best"], found["cheapest_within_1_percent"]
    if best is None:
        return None
    if best == cheapest:
        return f"The best way to sample is {best}, and no cheaper one comes within 1 % of its FD."
    return f"The best way to sample is {best}; {cheapest} costs least within 1 % of its FD."
