"""The sections of a run's report; each is "" where the run has nothing to show."""

import math
from collections.abc import Callable
from html import escape

from ldm.evaluation.measurements import shown
from pipelines.evaluation.parts.adherence import Adherence, first_measure
from pipelines.evaluation.parts.metrics import Metrics
from pipelines.evaluation.results import Reported
from pipelines.runs.record import describe, trains_autoencoder
from pipelines.sheets.page import Series, charts
from pipelines.sheets.pieces import (
    curves,
    evenly,
    facts,
    grid,
    interval,
    name_of,
    picture,
    scrub,
    thinned,
    tile,
    whisker,
)


def headline(told: Reported) -> str:
    """The few figures that matter most."""
    run = told.run
    step, total = run.step("ldm"), run.config.train.steps
    tiles = [tile(f"{step:,}", "steps of training" if step >= total else f"of {total:,} steps")]
    if metrics := told.part(Metrics):
        found = {m.name: (m, real) for m, real in metrics.figures()}
        for key in ("kid", "precision", "recall"):
            m, real = found.get(key, (None, None))
            if m and real:
                said = f"{name_of(key)}; held-out images: {real.shown('.3g')}"
                tiles.append(tile(m.shown(".3g"), said))
    if (prompts := told.part(Adherence)) and (right := first_measure(prompts.samples)):
        tiles.append(tile(f"{right.share:.0%}", f"show the {right.measure} that was asked for"))
    if (loss := run.last("ldm", "validation/loss")) is not None:
        tiles.append(tile(shown(loss, ".4g"), "validation loss"))
    about = describe(run)
    lead = f"{about['data']} · {about['conditioning']} · {about['diffusion']}"
    return f'<p class="lead">{escape(lead)}</p><div class="tiles">{"".join(tiles)}</div>'


def samples(told: Reported) -> str:
    """The grid of fixed prompts and seeds, over training."""
    paths = told.run.pictures("ldm")
    said = "The same prompts and seeds throughout, by the averaged weights. Drag, or press play."
    strip = scrub(paths, said) if paths else ""
    path = told.run.folder / "evaluation" / "samples.png"
    return strip + picture(path, "Samples for captions of held-out images, not selected")


def findings(told: Reported) -> str:
    """What the figures of the evaluation say."""
    found = [text for part in told.parts for text in part.sentences()]
    if not found:
        return f"<p>Not evaluated yet: <code>ldm evaluate {escape(told.name)}</code></p>"
    return '<ul class="findings">' + "".join(f"<li>{escape(text)}</li>" for text in found) + "</ul>"


def quality(told: Reported) -> str:
    """Every figure of the samples, beside that of held-out images, with intervals."""
    rows = []
    for m, r in (pair for part in told.parts for pair in part.figures()):
        ends = [end for one in (m, r) if one and one.defined for end in one.interval]
        ends = [end for end in ends if math.isfinite(end)] or [0.0]
        span = (min(ends), max(ends))
        cells = [escape(name_of(m.name)), interval(m), whisker(m, span)]
        cells += [interval(r), whisker(r, span)] if r else ["", ""]
        rows.append([*cells, f"{m.n}" + (f", {r.n}" if r and r.n != m.n else "")])
    if not rows or told.results is None:
        return ""
    metrics = told.part(Metrics)
    note = (
        f"Against {metrics.reference:,} training images with {told.results.about.features}. "
        "Intervals are of the draw of the samples, at 95 %; Fréchet distances at different N are "
        "not comparable."
        if metrics
        else ""
    )
    head = ("", "samples", "", "held-out images", "", "N")
    return grid(head, rows) + f'<p class="note">{escape(note)}</p>'


def _series(
    told: Reported, stage: str, key: str, name: str | None = None, dots: bool = False
) -> Series:
    x, y = thinned(*told.run.series(stage, key))
    return Series(name or key.replace("_", " "), x, y, dots=dots)


def training(told: Reported) -> str:
    """How the second stage went."""
    fixed = {"validation/loss": "held-out images", "train/loss": "images trained on"}
    losses = [_series(told, "ldm", "loss", "every step")]
    losses += [_series(told, "ldm", key, name, True) for key, name in fixed.items()]
    panels = [
        curves(losses, "step", "Loss; dots are of fixed images and noise", log_y=True),
        curves([_series(told, "ldm", "gradient_norm")], "step", "Gradient norm", log_y=True),
        curves([_series(told, "ldm", "learning_rate")], "step", "Learning rate"),
        curves([_series(told, "ldm", "images_per_second")], "step", "Images per second"),
    ]
    for keys in (("fd",), ("kid",), ("precision", "recall", "adherence")):
        lines = [_series(told, "ldm", f"quality/{key}", name_of(key), True) for key in keys]
        said = ", ".join(name_of(key) for key in keys)
        panels.append(curves(lines, "step", f"{said[0].upper()}{said[1:]} in training"))
    return charts([panel for panel in panels if panel])


def _level_records(told: Reported) -> list[tuple[int, list[float]]]:
    """The validation curve at each evaluation: step, and loss by level, least noisy first."""
    records = []
    for record in told.run.metrics.get("ldm", []):
        keys = sorted(key for key in record if key.startswith("validation/level_"))
        if keys:
            records.append((record["step"], [record[key] for key in keys]))
    return records


def by_level(told: Reported) -> str:
    """Loss by noise level over training."""
    over = [
        Series(f"step {step:,}", [(i + 0.5) / len(y) for i in range(len(y))], y)
        for step, y in evenly(_level_records(told), 5)
    ]
    said = "Held out, over training: squared error by t, 0 clean and 1 noise"
    chart = curves(over, "t", said, log_y=True)
    return charts([chart]) if chart else ""


def autoencoder(told: Reported) -> str:
    """The first stage: its figures, its pictures, its health."""
    panels = []
    for key, name in (("psnr", "PSNR, dB"), ("ssim", "SSIM"), ("perceptual", "perceptual")):
        one = _series(told, "autoencoder", f"validation/{key}", key, True)
        panels.append(curves([one], "step", f"Held-out reconstruction: {name}"))
    loss = _series(told, "autoencoder", "loss", "training loss")
    panels.append(curves([loss], "step", "Loss of the autoencoder", log_y=True))
    folder = told.run.folder / "autoencoder"
    health = folder / "health.txt"
    text = health.read_bytes().decode("utf-8", "replace") if health.is_file() else ""
    verdicts = [line for line in text.splitlines() if line.startswith(("ok ", "ILL "))]
    marks = {"ok": '<span class="well">well</span>', "ILL": '<span class="ill">ill</span>'}
    items = "".join(f"<li>{marks[line.split()[0]]} {escape(line[4:])}</li>" for line in verdicts)
    last = max(told.run.pictures("autoencoder"), default=folder / "none")
    said = "From above: held-out images, their reconstructions, three times the difference, noise"
    return (
        (charts([panel for panel in panels if panel]) if any(panels) else "")
        + picture(last, said)
        + (f'<ul class="findings">{items}</ul>' if items else "")
    )


def made(told: Reported) -> str:
    """Facts, commands and the whole configuration."""
    run, config = told.run, told.run.folder / "config.yaml"
    about = describe(run)
    if results := told.results:
        made_with = f"{results.about.amounts.samples} samples, seed {results.about.seed}"
        about["evaluated"] = f"{made_with}, {results.about.features}"
        about["not evaluated"] = "; ".join(f"{k}: {v}" for k, v in results.missing.items())
    commands = [
        f"python train_autoencoder.py --config {config}",
        f"python train_ldm.py --config {config}",
        f"ldm evaluate {run.folder}",
        f"ldm report {run.folder}",
    ]
    if not trains_autoencoder(run.config):
        del commands[0]
    return (
        facts({k: v for k, v in about.items() if v})
        + f"<pre>{escape(chr(10).join(commands))}</pre>"
        + "<details><summary>config.yaml</summary>"
        + f"<pre>{escape(config.read_text())}</pre></details>"
    )


SECTIONS: dict[str, Callable[[Reported], str]] = {
    "Samples": samples,
    "Findings": findings,
    "Quality": quality,
    "Training": training,
    "Noise levels": by_level,
    "Autoencoder": autoencoder,
    "Origin": made,
}
# those of the parts among them; the section of a part that is not named here comes before the last
ORDER = ("Samples", "Findings", "Quality", "Prompts", "Training", "Noise levels", "Sampling",
         "Memorisation", "Likelihood", "EMA")  # fmt: skip
LAST = ("Autoencoder", "Origin")


def sections(told: Reported) -> dict[str, str]:
    """All sections of a page that have something to show, by title, in the page's order."""
    found = {title: section(told) for title, section in SECTIONS.items()}
    for part in told.parts:
        found[part.title] = found.get(part.title, "") + told.section(part)
    titles = dict.fromkeys([*ORDER, *(t for t in found if t not in LAST), *LAST])
    return {title: found[title] for title in titles if found.get(title)}
