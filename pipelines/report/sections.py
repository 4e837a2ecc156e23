"""The sections of a run's report; each is "" where the run has nothing to show."""

from collections.abc import Callable
from html import escape

from ldm.evaluation.measurements import shown
from pipelines.report.findings import findings
from pipelines.report.quality import averages, likelihood, memorisation, prompts, quality, sampling
from pipelines.report.reported import Reported
from pipelines.runs.record import describe
from pipelines.sheets.page import Series, charts
from pipelines.sheets.pieces import (
    curves,
    evenly,
    facts,
    name_of,
    numbers,
    picture,
    scrub,
    thinned,
    tile,
)


def headline(told: Reported) -> str:
    """The few figures that matter most."""
    run, quality, real = (
        told.run,
        told.measured("metrics"),
        told.measured("metrics", "held_out"),
    )
    step, total = run.step("ldm"), run.config.train.steps
    tiles = [tile(f"{step:,}", "steps of training" if step >= total else f"of {total:,} steps")]
    for key in ("kid", "precision", "recall"):
        if key in quality and key in real:
            m, r = quality[key], real[key]
            said = f"{name_of(key)}; held-out images: {shown(r.value, '.3g')}"
            tiles.append(tile(shown(m.value, ".3g"), said))
    rows = told.results.get("adherence", {}).get("samples", [])
    if rows:
        first = [row for row in rows if row["measure"] == rows[0]["measure"]]
        right, n = (sum(row[key] for row in first) for key in ("right", "n"))
        tiles.append(tile(f"{right / n:.0%}", f"show the {first[0]['measure']} that was asked for"))
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
    return strip + picture(
        told.evaluation / "samples.png", "Samples for captions of held-out images, not selected"
    )


def says(told: Reported) -> str:
    """The findings."""
    found = findings(told.results)
    if not found:
        return f"<p>Not evaluated yet: <code>ldm evaluate {escape(told.name)}</code></p>"
    return '<ul class="findings">' + "".join(f"<li>{escape(text)}</li>" for text in found) + "</ul>"


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
    """Loss by noise level: over training, and at the end by twenty levels with intervals."""
    over = [
        Series(f"step {step:,}", [(i + 0.5) / len(y) for i in range(len(y))], y)
        for step, y in evenly(_level_records(told), 5)
    ]
    final: list[Series] = []
    noise: list[Series] = []
    for name, spaces in told.results.get("levels", {}).items():
        for space, into in (("output", final), ("eps", noise)):
            seen = spaces[space]
            low, high = (numbers(ends) for ends in zip(*seen["interval"], strict=True))
            into.append(Series(name, seen["t"], numbers(seen["mean"]), low, high))
    said = "squared error by t, 0 clean and 1 noise"
    panels = [
        curves(over, "t", f"Held out, over training: {said}", log_y=True),
        curves(final, "t", f"At the end, with 95 % bands: {said}", log_y=True),
        curves(noise, "t", "The same errors as those of the predicted noise", log_y=True),
    ]
    return charts([panel for panel in panels if panel])


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
    results = told.results
    if results:
        made_with = f"{results['amounts']['samples']} samples, seed {results['seed']}"
        about["evaluated"] = f"{made_with}, {results['features']}"
        about["not evaluated"] = "; ".join(f"{k}: {v}" for k, v in results["missing"].items())
    commands = [
        f"python train_autoencoder.py --config {config}",
        f"python train_ldm.py --config {config}",
        f"ldm evaluate {run.folder}",
        f"ldm report {run.folder}",
    ]
    if run.config.autoencoder.path:
        del commands[0]
    return (
        facts({k: v for k, v in about.items() if v})
        + f"<pre>{escape(chr(10).join(commands))}</pre>"
        + "<details><summary>config.yaml</summary>"
        + f"<pre>{escape(config.read_text())}</pre></details>"
    )


SECTIONS: dict[str, Callable[[Reported], str]] = {
    "Samples": samples,
    "Findings": says,
    "Quality": quality,
    "Prompts": prompts,
    "Training": training,
    "Noise levels": by_level,
    "Sampling": sampling,
    "Memorisation": memorisation,
    "Likelihood": likelihood,
    "EMA": averages,
    "Autoencoder": autoencoder,
    "Origin": made,
}
