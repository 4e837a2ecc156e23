"""`ldm explain`: how noise becomes an image, on one page, from a checkpoint or drawn flowers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.core.files import refuse_unwritable, write_text
from ldm.diffusion.exact import mixture
from ldm.diffusion.grids import split
from ldm.diffusion.loss import WEIGHTINGS
from ldm.diffusion.plane import (
    EPS,
    Level,
    Network,
    Noise,
    V,
    error_gain,
    fit,
    noised,
)
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.schedules import SCHEDULES, Cosine, linear
from pipelines.explained.subject import Subject, drawn_subject, keyed_normal, trained_subject
from pipelines.sheets.page import Frame, Series, chart, charts, page, strips

STEPS = 20  # of every sampler on the page
SHOWN = (0, 2, 4, 6, 9, 13, 19)  # of these, more of the early ones, where most is decided
SCALES = (0.0, 1.0, 2.0, 4.0, 8.0)
EARLY = 2  # a step whose belief is shown under each guidance scale


def explain(out: Path, checkpoint: str | None = None, prompt: str = "a red flower") -> Path:
    """Write the page to `out`, or to out/index.html where that has no suffix; returns its path.

    `checkpoint` is a run, a folder or a Hub name. Without one the model is the exact denoiser of
    drawn flowers, the best that any network could learn from them. Raises UserError for a prompt
    that no drawn flower answers, and for a checkpoint that cannot be read.
    """
    path = out if out.suffix else out / "index.html"
    refuse_unwritable(path)
    subject = drawn_subject(prompt) if checkpoint is None else trained_subject(checkpoint, prompt)
    with subject.ready():
        sections = (_forward, _curves, _one_dimension, _weightings, _trajectories, _guidance)
        body = [f"<p>{subject.about}</p>", *(part for s in sections for part in s(subject))]
    write_text(path, page(f"How {subject.name} comes out of noise", body))
    return path


def _times(*times: float) -> Tensor:
    return torch.tensor(times, dtype=torch.float64)


def _section(title: str, *paragraphs: str) -> list[str]:
    return [f"<h2>{title}</h2>", *(f"<p>{p}</p>" for p in paragraphs)]


def _forward(subject: Subject) -> list[str]:
    times = _times(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    eps = keyed_normal(subject, 1, "forward")(0)
    rows, half = [], {}
    for name in ("linear", "cosine"):
        schedule = SCHEDULES[name]()
        x = torch.cat([noised(subject.x0, eps, level) for level in split(schedule.level(times))])
        if subject.latents:
            rows.append((f"{name}, latent", subject.latents(x)))
        rows.append((name, subject.pictures(x)))
        half[name] = float(schedule.level(_times(0.5)).alpha[0] ** 2)
    heads = [f"<i>t</i> = {t:g}" for t in times.tolist()]
    return [
        *_section(
            "Adding noise",
            "Training destroys pictures on purpose: <i>x<sub>t</sub> = α<sub>t</sub>x<sub>0</sub> "
            "+ σ<sub>t</sub>ε</i>, a weighted sum of a picture and noise. The schedule says how "
            "fast <i>α</i> falls and <i>σ</i> rises. The linear one (Ho et al. 2020) has little "
            f"left to destroy halfway, <i>α</i>² = {half['linear']:.2f} at <i>t</i> = 0.5; the "
            f"cosine one (Nichol &amp; Dhariwal 2021) still has {half['cosine']:.2f}, and spends "
            "its steps more evenly.",
        ),
        strips(rows, heads, "One picture and one noise under two schedules."),
    ]


def _curves(subject: Subject) -> list[str]:
    t = torch.linspace(0.002, 1, 300, dtype=torch.float64)
    names = ("linear", "scaled_linear", "cosine", "sigmoid", "flow")
    levels = {name: SCHEDULES[name]().level(t) for name in names}

    def draw_all(value: Callable[[Level], Tensor], y: tuple[float, float], caption: str) -> str:
        series = [Series(n, t.tolist(), value(level).tolist()) for n, level in levels.items()]
        return chart(series, Frame((0, 1), y), "t", caption)

    return [
        *_section(
            "Schedules",
            "What a level is, for a network, is its signal-to-noise ratio <i>α²/σ²</i>. Two "
            "schedules differ in how long they stay at each ratio. Flow matching draws a straight "
            "line, <i>α</i> = 1 − <i>σ</i>; on the others <i>α² + σ²</i> = 1.",
        ),
        charts(
            [
                draw_all(lambda level: level.alpha, (0, 1), "Signal α"),
                draw_all(lambda level: level.sigma, (0, 1), "Noise σ"),
                draw_all(lambda level: level.log_snr, (-12, 12), "log signal-to-noise ratio"),
            ]
        ),
    ]


def _one_dimension(subject: Subject) -> list[str]:
    points, variance = torch.tensor([[-1.3], [0.2], [1.1]], dtype=torch.float64), 0.01
    schedule, reach = Cosine(1.0, 0.0), 2.6
    x = torch.linspace(reach, -reach, 260, dtype=torch.float64)
    level = schedule.level(torch.linspace(0, 1, 400, dtype=torch.float64))
    spread = level.alpha**2 * variance + level.sigma**2
    off = x[:, None, None] - level.alpha[:, None] * points.T
    density = (-(off**2) / (2 * spread[:, None])).exp().mean(2) / spread.sqrt()  # (x, t)
    shade = (density / density.amax(0)).sqrt()
    ink = np.empty((*shade.shape, 4), dtype=np.uint8)
    ink[..., :3] = (58, 134, 200)
    ink[..., 3] = (shade.numpy() * 190).round()

    times = torch.linspace(1, 0, 201, dtype=torch.float64)
    start = torch.special.ndtri(torch.linspace(0.03, 0.97, 17, dtype=torch.float64))[:, None]
    states = SAMPLERS["heun"](mixture(points, variance), start, split(schedule.level(times)))
    paths = torch.stack([start, *(state.x for state in states)])[..., 0]  # (times, 17)
    threads = [Series("", times.tolist(), path.tolist()) for path in paths.T]
    return [
        *_section(
            "The same in one dimension",
            "Data on a line, in three clumps, so that its whole density <i>q(x<sub>t</sub>)</i> "
            "can be seen. Noise melts the clumps into one bell, <i>N</i>(0, 1), whatever they "
            "were. The lines are the probability flow: a denoiser says, at each place, where "
            "the data lies on average, and following it from right to left takes every draw of "
            "the bell to some clump. That is sampling.",
        ),
        charts(
            [
                chart(
                    [],
                    Frame((0, 1), (-reach, reach)),
                    "t",
                    "Density from data (left) to noise (right), with 17 paths of the flow.",
                    Image.fromarray(ink),
                    threads,
                )
            ]
        ),
    ]


def _weightings(subject: Subject) -> list[str]:
    schedule = linear()
    level = schedule.level(torch.linspace(0.001, 1, 1000, dtype=torch.float64))
    weights = {"simple, ε": error_gain(level, EPS), "simple, v": error_gain(level, V)}
    for name, weighting in WEIGHTINGS.items():
        if weighting is not None:
            weights[name] = weighting(level, schedule)
    log_snr = level.log_snr.tolist()
    series = []
    for name, weight in weights.items():
        on_noise = weight / level.snr
        series.append(Series(name, log_snr, (on_noise / on_noise.max()).log10().tolist()))
    half = (len(series) + 1) // 2
    caption = "log<sub>10</sub> of the weight, its largest at 0."
    return [
        *_section(
            "What the loss cares about",
            "A network may predict the noise, the picture or a mixture of both; a squared error of "
            "one is a squared error of the other times a factor known at each level. So a loss is "
            "a weight on |<i>ε − ε̂</i>|² as a function of log-SNR. Noise-prediction with plain "
            "squared error weighs all levels alike. The likelihood's own weight (<code>vlb</code>) "
            "depends on how fast the schedule passes a level, here the linear one; on 1,000 steps "
            "it goes mostly to levels too clean to see.",
        ),
        charts(
            [
                chart(part, Frame((-9, 9), (-4, 0.1)), "log-SNR (noise … data)", caption)
                for part in (series[:half], series[half:])
            ]
        ),
    ]


def _recorded(
    subject: Subject, sampler: str, network: Network, x: Tensor, noise: Noise
) -> tuple[list[tuple[Level, Tensor, Tensor]], Tensor]:
    """(level, x, x̂0) at the beginning of each step of a sampler, and its result."""
    seen: list[tuple[Level, Tensor, Tensor]] = []
    level = subject.spec.levels(STEPS)[0]
    for state in subject.spec.sample(network, x, STEPS, sampler=sampler, noise=noise):
        assert state.estimate is not None
        seen.append((level, x, state.estimate.x0))
        x, level = state.x, state.level
    return seen, x


def _trajectories(subject: Subject) -> list[str]:
    noise = keyed_normal(subject, 1, "trajectory")
    start = subject.spec.initial(noise(STEPS))
    rows: list[tuple[str, Sequence[Image.Image]]] = []
    for name, label in (("ddpm", "DDPM"), ("ddim", "DDIM"), ("dpmpp_2m", "DPM++")):
        seen, end = _recorded(subject, name, subject.network(1.0, 1), start, noise)
        # pictures of x: scaled to the variance of data, which matters where that explodes
        noisy = [fit(1 / torch.hypot(seen[i][0].alpha, seen[i][0].sigma), end) for i in SHOWN]
        x = torch.cat([*(s * seen[i][1] for s, i in zip(noisy, SHOWN, strict=True)), end])
        rows.append((f"{label}, <i>x<sub>t</sub></i>", subject.pictures(x)))
        x0 = torch.cat([*(seen[i][2] for i in SHOWN), end])
        rows.append((f"{label}, <i>x̂</i><sub>0</sub>", subject.pictures(x0)))
    heads = [f"step {i + 1}" for i in SHOWN] + ["result"]
    return [
        *_section(
            "Taking noise away",
            f"Three samplers, {STEPS} steps each, from the same noise. <i>x<sub>t</sub></i> is "
            "where the sampler is, <i>x̂</i><sub>0</sub> what the denoiser believes it will "
            "become: at first the mean of everything the prompt allows, later one picture. DDIM "
            "moves to <i>αx̂</i><sub>0</sub><i> + σε̂</i> at the next level and is a function of "
            "the first noise alone. DDPM adds fresh noise at each step, and may end elsewhere. "
            "DPM-Solver++ also uses the step before to see where <i>x̂</i><sub>0</sub> is going, "
            "and needs fewer steps for the same path as DDIM.",
        ),
        strips(rows, heads, "Each sampler's position and belief; the last column is its result."),
    ]


def _guidance(subject: Subject) -> list[str]:
    count, rows = 6, []
    noise = keyed_normal(subject, count, "guidance")
    start = subject.spec.initial(noise(STEPS))
    for scale in SCALES:
        network = subject.network(scale, count)
        seen, end = _recorded(subject, "dpmpp_2m", network, start, noise)
        early = seen[EARLY][2][:1]
        rows.append((f"scale {scale:g}", subject.pictures(torch.cat([early, end]))))
    heads = [f"<i>x̂</i><sub>0</sub>, step {EARLY + 1}", "result", *[""] * (count - 1)]
    return [
        *_section(
            "Guidance",
            "A model that knows the prompt and one that does not disagree. Classifier-free "
            "guidance goes from the second's prediction through the first's, and on: "
            "<i>F<sub>u</sub> + s·(F<sub>c</sub> − F<sub>u</sub>)</i>. Scale 0 ignores the "
            "prompt, 1 is the conditional model, more exaggerates what the prompt changes. Much of "
            "it overshoots on the way: the early belief in the first column takes on colours that "
            "no picture has. A trained network then ends on pictures that are more typical of the "
            "prompt, more saturated and less different from each other; an exact model must come "
            "back to pictures that it was given.",
        ),
        strips(rows, heads, "The same six noises under five scales, by DPM-Solver++."),
        '<p class="note">The formulas, their derivations and sources: docs/mathematics.md.</p>',
    ]
