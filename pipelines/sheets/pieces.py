"""The pieces that a report is built from: tiles, tables, strips to scrub through, small charts."""

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.core.text import say
from ldm.evaluation.measurements import NAMES, Measurement
from pipelines.sheets.page import Frame, Series, chart

STYLE = """
.lead { color: var(--muted); margin-top: -0.4rem; overflow-wrap: anywhere; }
.tiles { display: grid; gap: 0.8rem; margin: 1.5rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(12rem, 100%), 1fr)); }
.tile { border: 1px solid var(--line); border-radius: 10px; padding: 0.7rem 0.9rem; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.3; }
.tile span { color: var(--muted); font-size: 0.88rem; line-height: 1.35; display: block; }
.wide { overflow-x: auto; }
.charts { margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
.charts figure { max-width: 30rem; display: flex; flex-direction: column; }
.charts figcaption { order: -1; color: var(--fg); line-height: 1.35; margin-bottom: 0.4rem; }
table.plain { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
table.plain th, table.plain td { text-align: left; padding: 0.28rem 0.9rem 0.28rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; }
table.plain thead th { color: var(--muted); font-weight: 500; }
table.plain td.figure { white-space: nowrap; }
.text { display: inline-block; max-width: 20rem; white-space: normal; overflow-wrap: anywhere; }
table.facts td { overflow-wrap: anywhere; } table.facts th { white-space: nowrap; }
.whisker { width: 9rem; min-width: 6rem; height: 1rem; display: block; }
.picture { max-width: 100%; height: auto; border-radius: 6px; display: block; }
.picture.small { width: 40rem; image-rendering: pixelated; }
.scrub { display: grid; gap: 0.5rem; justify-items: start; }
.scrub img { max-width: 100%; height: auto; border-radius: 6px; }
.scrub img[hidden] { display: none; }
.scrub .bar { display: flex; gap: 0.8rem; align-items: center; width: 100%; }
.scrub input { flex: 1; accent-color: var(--c0); min-width: 0; }
.scrub button { font: inherit; color: inherit; background: none; border: 1px solid var(--line);
  border-radius: 6px; padding: 0.1rem 0.7rem; cursor: pointer; }
.scrub output { min-width: 7rem; text-align: right; color: var(--muted);
  font-variant-numeric: tabular-nums; }
.legend[hidden] { display: none; }
ul.findings { padding-left: 1.1rem; max-width: 44rem; } ul.findings li { margin: 0.35rem 0; }
.ill { color: var(--c1); font-weight: 600; } .well { color: var(--c2); font-weight: 600; }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--muted); }
pre { overflow-x: auto; font-size: 0.82rem; line-height: 1.45; border: 1px solid var(--line);
  border-radius: 8px; padding: 0.8rem; }
nav { position: sticky; top: 0; background: var(--bg); display: flex; gap: 0.2rem 1rem; z-index: 1;
  flex-wrap: wrap; padding: 0.5rem 0; border-bottom: 1px solid var(--line); font-size: 0.9rem; }
a { color: var(--c0); text-decoration: none; } h2 { scroll-margin-top: 4rem; }
"""

SCRIPT = """
for (const strip of document.querySelectorAll('.scrub')) {
  const frames = [...strip.querySelectorAll('img')], slider = strip.querySelector('input');
  const said = strip.querySelector('output'), button = strip.querySelector('button');
  let timer = null;
  const show = () => {
    frames.forEach((frame, i) => { frame.hidden = i !== +slider.value; });
    said.textContent = frames[slider.value].alt;
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = 'play'; };
  slider.addEventListener('input', () => { stop(); show(); });
  button.addEventListener('click', () => {
    if (timer) return stop();
    if (+slider.value === frames.length - 1) slider.value = 0;
    button.textContent = 'stop';
    timer = setInterval(() => {
      if (+slider.value >= frames.length - 1) return stop();
      slider.value = +slider.value + 1;
      show();
    }, 450);
  });
  show();
}
"""

MOST_FRAMES = 24
MOST_POINTS = 400


def read_picture(path: Path) -> Image.Image | None:
    """A picture; None, and it is said, where it cannot be read."""
    try:
        with Image.open(path, formats=("PNG",)) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        say(f"note: {path} is left out: it cannot be read ({error})")
        return None


def webp(image: Image.Image, widest: int = 1200) -> str:
    """A picture as a data URI; a tenth of a PNG's size."""
    if image.width > widest:
        image = image.resize((widest, round(image.height * widest / image.width)))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=82, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(path: Path, said: str) -> str:
    """A picture with its caption; nothing where there is no such file, or none that can be read."""
    if not path.is_file() or (image := read_picture(path)) is None:
        return ""
    kind = "picture small" if image.width < 640 else "picture"
    html = f'<img class="{kind}" src="{webp(image)}" alt="{escape(said)}">'
    return f"<figure>{html}<figcaption>{escape(said)}</figcaption></figure>"


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the items, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def scrub(paths: Sequence[Path], caption: str) -> str:
    """Pictures of a training in order, behind a slider; the last one is shown first.

    They are named step_N.png; "" where none of them can be read.
    """
    opened = [(path, read_picture(path)) for path in evenly(paths, MOST_FRAMES)]
    frames = [(int(path.stem[5:]), image) for path, image in opened if image is not None]
    if not frames:
        return ""
    last = len(frames) - 1
    images = "".join(
        f'<img src="{webp(image, 900)}" alt="step {step:,}"{"" if i == last else " hidden"}>'
        for i, (step, image) in enumerate(frames)
    )
    bar = (
        '<div class="bar"><button type="button">play</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="training step">'
        "<output></output></div>"
    )
    inside = f'<div class="scrub">{bar}{images}</div>'
    return f"<figure>{inside}<figcaption>{escape(caption)}</figcaption></figure>"


def tile(value: str, name: str) -> str:
    """A figure that matters, large."""
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'


def facts(rows: dict[str, str]) -> str:
    """Names and what they are."""
    inside = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows.items()
    )
    return f'<div class="wide"><table class="plain facts">{inside}</table></div>'


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f'<td class="figure">{cell}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table class="plain"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def interval(m: Measurement) -> str:
    """A value and its interval, as text; a dash where it is not defined."""
    if not m.defined:
        return f'<span title="{escape(m.note)}">–</span>'
    if not all(map(math.isfinite, m.interval)):
        return f"{m.value:.4g}"
    low, high = m.interval
    return f"{m.value:.4g} <small>[{low:.3g}, {high:.3g}]</small>"


def whisker(m: Measurement, span: tuple[float, float]) -> str:
    """A dot on a line: a measurement in its interval, within the row's common span."""
    if not m.defined:
        return ""
    low, high = (end if math.isfinite(end) else m.value for end in m.interval)
    return span_of(low, m.value, high, span)


def span_of(low: float, value: float, high: float, span: tuple[float, float]) -> str:
    """A dot at `value` on a line from `low` to `high`, within `span`."""
    width = (span[1] - span[0]) or 1.0
    a, b, c = (max(0.0, min(1.0, (v - span[0]) / width)) * 140 + 5 for v in (low, value, high))
    return (
        '<svg class="whisker" viewBox="0 0 150 14" preserveAspectRatio="none">'
        '<path d="M5 7H145" style="stroke: var(--line)"/>'
        f'<path d="M{a:.1f} 7H{c:.1f}" style="stroke: var(--c0); stroke-width: 4" opacity="0.45"/>'
        f'<circle cx="{b:.1f}" cy="7" r="4" style="fill: var(--c0)"/></svg>'
    )


def name_of(key: str) -> str:
    """A metric's name as it is read."""
    return NAMES.get(key, key.replace("_", " ")).strip()


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means of neighbouring points, so that at most MOST_POINTS are drawn."""
    size = math.ceil(len(x) / MOST_POINTS) or 1
    blocks = range(0, len(x), size)
    return (
        [sum(x[i : i + size]) / len(x[i : i + size]) for i in blocks],
        [sum(y[i : i + size]) / len(y[i : i + size]) for i in blocks],
    )


def frame(series: Sequence[Series], log_x: bool = False, log_y: bool = False) -> Frame | None:
    """Axes around all points and bands; None where there is nothing to draw."""
    xs = [x for s in series for x in s.x]
    ys = [y for s in series for y in (*s.y, *s.low, *s.high) if math.isfinite(y)]
    if not xs or not ys or (log_y and min(ys) <= 0) or (log_x and min(xs) <= 0):
        return None
    return Frame(_span(xs, log_x, 0.0), _span(ys, log_y, 0.06), log_x, log_y)


def _span(values: Sequence[float], log: bool, margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        room = (high / low) ** margin if high > low else 1.5
        return low / room, high * (room if high > low or margin else 1.5)
    room = (high - low) * margin or (abs(high) * 0.1 or 1.0) * (low == high)
    return low - room, high + room


def curves(
    series: Sequence[Series], x: str, caption: str, log_x: bool = False, log_y: bool = False
) -> str:
    """A chart that fits its axes to its curves; nothing where there are none."""
    shown = [s for s in series if len(s.x)]
    axes = frame(shown, log_x, log_y) or (frame(shown) if log_y or log_x else None)
    if axes is None:
        return ""
    named = [s._replace(name=escape(s.name)) for s in shown]
    html = chart(named, axes, escape(x), escape(caption))
    return html if len(named) > 1 else html.replace('class="legend"', 'class="legend" hidden')
