"""What a run folder says about itself: its config, how far each stage got, its figures."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.config import Config, TrainConfig, load_config
from ldm.core.errors import UserError
from ldm.core.files import written

STAGES = ("autoencoder", "ldm")
SNAPSHOTS = Path("ldm") / "ema"  # in a run: the averages of several lengths that it kept
Records = list[dict[str, Any]]  # one per line of metrics.jsonl, each with its "step"


def run_folder(name: str | Path) -> Path:
    """The run that `name` means: a run folder, its pipeline/ folder, or a name under runs/.

    Raises UserError where there is none.
    """
    place = Path(name)
    run = place.parent if place.name == "pipeline" else place
    for folder in (run, Path("runs") / run):
        if (folder / "config.yaml").is_file():
            return folder
    here = sorted(p.parent.name for p in Path("runs").glob("*/config.yaml"))
    known = f"runs/ has {', '.join(here)}" if here else "runs/ has none; train one first"
    raise UserError(f"{str(name)!r} is no run folder (it has no config.yaml): {known}")


@dataclass(frozen=True)
class RunRecord:
    """A run as read from its folder."""

    folder: Path
    config: Config
    metrics: dict[str, Records]  # by stage; a stage that has not begun is absent

    @classmethod
    def read(cls, name: str | Path) -> "RunRecord":
        """Read a run by folder or name. Raises UserError where there is none."""
        from ldm.training.tracking import read_metrics

        folder = run_folder(name)
        paths = {stage: folder / stage / "metrics.jsonl" for stage in STAGES}
        metrics = {stage: read_metrics(path) for stage, path in paths.items() if path.is_file()}
        return cls(folder, load_config(folder / "config.yaml"), metrics)

    def train(self, stage: str) -> TrainConfig:
        """The training settings of a stage."""
        return self.config.autoencoder.train if stage == "autoencoder" else self.config.train

    def without_figures(self) -> str:
        """Why there is none at all."""
        begun = [self.folder / stage / "metrics.jsonl" for stage in self.metrics]
        if not begun:
            return "there is no metrics.jsonl"
        return f"no line of {' and '.join(map(str, begun))} can be read"

    def step(self, stage: str) -> int:
        """The last step that a stage has recorded; 0 before any."""
        return max((r["step"] for r in self.metrics.get(stage, [])), default=0)

    def series(self, stage: str, key: str) -> tuple[list[int], list[float]]:
        """Steps and finite values of one figure: what can be drawn, also of a run that diverged."""
        found = [(r["step"], r[key]) for r in self.metrics.get(stage, []) if _finite(r.get(key))]
        return [step for step, _ in found], [value for _, value in found]

    def last(self, stage: str, key: str) -> float | None:
        """The newest value of one figure; None where it was never recorded."""
        values = [r[key] for r in self.metrics.get(stage, []) if key in r]
        return values[-1] if values else None

    def keys(self, stage: str) -> list[str]:
        """Every figure that a stage recorded, sorted; what it said in words is none."""
        records = self.metrics.get(stage, [])
        return sorted(
            {k for r in records for k, v in r.items() if not isinstance(v, str)} - {"step"}
        )

    def pictures(self, stage: str) -> list[Path]:
        """The grids of samples that a stage drew, by step; somebody's copies are none."""
        found = (self.folder / stage / "samples").glob("step_*.png")
        return sorted(path for path in found if re.fullmatch(r"step_\d+", path.stem))

    @property
    def samples(self) -> Path | None:
        """The newest grid of samples, if any was drawn."""
        return max(self.pictures("ldm"), default=None)

    @property
    def export(self) -> Path | None:
        """The pipeline folder, if the run has got that far."""
        folder = self.folder / "pipeline"
        return folder if (folder / "model_index.json").is_file() else None

    @property
    def ema_length(self) -> float | None:
        """The relative length of the average that was exported; None for training's own EMA."""
        from pipelines.calls.defaults import DEFAULTS_FILE, EMA_LENGTH

        try:
            said = json.loads((self.folder / "pipeline" / DEFAULTS_FILE).read_bytes())
            return float(said[EMA_LENGTH])
        except (OSError, ValueError, LookupError, TypeError):
            return None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def describe(run: RunRecord) -> dict[str, str]:
    """What was trained, on what, and how far, as rows of a table."""
    config, data = run.config, run.config.data
    text: str = config.conditioning.kind
    text += f" from {config.conditioning.path}" if config.conditioning.path else ""
    rows = {
        "run": str(run.folder),
        "data": f"{data.source}, {data.resolution} x {data.resolution} pixels",
        "conditioning": text,
        "network": config.network.get("kind", "unet"),
        "diffusion": f"{config.diffusion.schedule} schedule, {config.diffusion.prediction} "
        f"prediction, {config.diffusion.weighting} weighting",
    }
    for stage in STAGES:
        if stage == "autoencoder" and not trains_autoencoder(config):
            path, kind = config.autoencoder.path, config.autoencoder.kind
            rows[stage] = f"{path}, as it came" if kind == "kl" else f"none: {kind} as they are"
        else:
            rows[stage] = _how_far(run, stage)
    rows["samples"] = str(run.samples or "none yet")
    rows["pipeline"] = str(run.export or "not exported yet")
    if run.ema_length is not None:
        rows["pipeline"] += f", averaged over a relative length of {run.ema_length:g}"
    return rows


def trains_autoencoder(config: Config) -> bool:
    """Whether a run's first stage has anything to do."""
    return config.autoencoder.kind == "kl" and config.autoencoder.path is None


def _how_far(run: RunRecord, stage: str) -> str:
    if stage not in run.metrics:
        return "not begun"
    step, total = run.step(stage), run.train(stage).steps
    parts = [f"step {step} of {total} ({step / max(1, total):.0%})"]
    named = {"loss": "loss", "validation/loss": "validation loss", "images_per_second": "images/s"}
    for key, name in named.items():
        if isinstance(value := run.last(stage, key), int | float):
            parts.append(f"{name} {value:.4g}")
    return ", ".join(parts)


def draw_curves(run: RunRecord, path: Path) -> Path:
    """Draw what each stage recorded, a row per stage, to `path` (PNG).

    Raises UserError where nothing was recorded.
    """
    from matplotlib.figure import Figure

    stages = [stage for stage in STAGES if run.metrics.get(stage)]
    if not stages:
        raise UserError(f"{run.folder} has recorded no figures yet: {run.without_figures()}")
    figure = Figure(figsize=(14, 3.6 * len(stages)), layout="constrained")
    grid = figure.subplots(len(stages), 4, squeeze=False)
    for row, stage in zip(grid, stages, strict=True):
        levels = [key for key in run.keys(stage) if key.startswith("validation/level_")]
        terms = [k for k in run.keys(stage) if k not in ("loss", "validation/loss", *_PACE)]
        panels = {
            "loss": ["loss", "validation/loss"],
            "validation loss by noise level" if levels else "terms": levels or terms,
            "gradient norm and learning rate": ["gradient_norm", "learning_rate"],
            "images per second": ["images_per_second"],
        }
        for axes, (title, keys) in zip(row, panels.items(), strict=True):
            _panel(axes, run, stage, keys, by_level=bool(levels) and keys is levels)
            axes.set_title(f"{stage}: {title}", fontsize=10)
    with written(path) as file:
        figure.savefig(file, dpi=110)
    return path


_PACE = ("learning_rate", "gradient_norm", "images_per_second", "peak_memory_gib")


def _panel(axes: Any, run: RunRecord, stage: str, keys: list[str], by_level: bool) -> None:
    from matplotlib import colormaps

    colours = colormaps["viridis"]
    for index, key in enumerate(keys):
        steps, values = run.series(stage, key)
        if not steps:
            continue
        colour = colours(index / max(1, len(keys) - 1) * 0.9) if by_level else None
        mark = "o" if len(steps) < 30 else None
        axes.plot(steps, values, label=key.rsplit("/", 1)[-1] if by_level else key,
                  color=colour, marker=mark, markersize=3, linewidth=1)  # fmt: skip
        if all(value > 0 for value in values):
            axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=7, ncols=2 if len(axes.lines) > 6 else 1)
