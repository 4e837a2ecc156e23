"""One self-contained HTML page: prose, strips of embedded pictures, and charts drawn as SVG.

Colours are CSS variables, so that a chart is legible on a light and on a dark page; nothing on the
page is fetched from anywhere.
"""

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from PIL import Image

STYLE = """
:root { color-scheme: light dark; --bg: #fdfdfc; --fg: #1d1f24; --muted: #5c6270; --line: #d9dce2;
  --c0: #0a6fb8; --c1: #d1551b; --c2: #12835f; --c3: #a64a94; --c4: #8a6d00; --c5: #4b5563; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #15171b; --fg: #e8e9ec; --muted: #a3a9b6; --line: #343943;
    --c0: #5cb3f2; --c1: #ff9460; --c2: #4fd0a3; --c3: #e394d3; --c4: #e0be4a; --c5: #b3bac7; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--bg);
  color: var(--fg); font: 1rem/1.6 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 3rem; font-size: 1.25rem; }
p { max-width: 44rem; } i { font-family: Georgia, serif; } code { font-size: 0.92em; }
p.note { color: var(--muted); }
figure { margin: 1.2rem 0; } figcaption, .legend { color: var(--muted); font-size: 0.9rem; }
.charts { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); }
.charts figure { margin: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 0.15rem 1rem; }
.legend svg { width: 1.8rem; height: 0.6rem; margin-right: 0.35rem; vertical-align: middle; }
svg text { fill: var(--muted); font: 12px system-ui, sans-serif; }
svg .axis { stroke: var(--line); stroke-width: 1; fill: none; }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .thread { fill: none; stroke: var(--fg); stroke-width: 0.8; opacity: 0.55; }
.strips { overflow-x: auto; } .strips table { border-collapse: collapse; }
.strips th { font-weight: 600; font-size: 0.9rem; text-align: left; padding: 0 0.8rem 0 0;
  position: sticky; left: 0; background: var(--bg); min-width: 5.2rem; }
.strips td { padding: 0.15rem; text-align: center; color: var(--muted); font-size: 0.8rem; }
.strips img { display: block; width: 5.6rem; height: auto; image-rendering: pixelated;
  border-radius: 3px; }
"""


class Series(NamedTuple):
    """A named curve through points (x, y), with a band from `low` to `high` if they are given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dots: bool = False  # the points themselves, each saying its value when pointed at


def _png(image: Image.Image) -> str:
    """The image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def page(title: str, body: Sequence[str], style: str = "", script: str = "") -> str:
    """The whole HTML document, with more style and a script of its own where they are given."""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>"
    )
    foot = f"<script>{script}</script>" if script else ""
    return head + f"<h1>{escape(title)}</h1>" + "\n".join(body) + foot + "</body></html>\n"


def strips(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], heads: Sequence[str], caption: str
) -> str:
    """Rows of pictures, each under its column's head; scrolls sideways where it is too wide."""
    cells = "".join(f"<td>{head}</td>" for head in heads)
    table = [f"<tr><th></th>{cells}</tr>"]
    for name, images in rows:
        pictures = "".join(
            f'<td><img src="{_png(image)}" alt="{escape(name)} {i + 1}"></td>'
            for i, image in enumerate(images)
        )
        table.append(f"<tr><th>{name}</th>{pictures}</tr>")
    inside = f'<div class="strips"><table>{"".join(table)}</table></div>'
    return f"<figure>{inside}<figcaption>{caption}</figcaption></figure>"


DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 5", "1 4")
LEFT, RIGHT, TOP, BOTTOM, WIDTH, HEIGHT = 40, 18, 10, 38, 420, 260


class Frame(NamedTuple):
    """The ranges of a chart's axes, and which of them are logarithmic."""

    x: tuple[float, float]
    y: tuple[float, float]
    log_x: bool = False
    log_y: bool = False

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where (x, y) lies in the SVG."""
        across, up = _along(x, self.x, self.log_x), _along(y, self.y, self.log_y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )

    def path(self, x: Sequence[float], y: Sequence[float]) -> str:
        """An SVG path through the points, cut where a point is outside the frame."""
        pieces, drawing = [], False
        for a, b in zip(x, y, strict=True):
            inside = self.x[0] <= a <= self.x[1] and self.y[0] <= b <= self.y[1]
            if inside:
                pieces.append(("L" if drawing else "M") + "{:.1f} {:.1f}".format(*self.point(a, b)))
            drawing = inside
        return "".join(pieces)


def _along(value: float, span: tuple[float, float], log: bool) -> float:
    """How far from span's start to its end, as a fraction."""
    if log:
        return math.log(value / span[0]) / math.log(span[1] / span[0])
    return (value - span[0]) / (span[1] - span[0])


def _ticks(low: float, high: float, log: bool = False) -> list[float]:
    """About five round numbers from low to high."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for marks in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
            found = [m * 10.0**d for d in decades for m in marks if low <= m * 10.0**d <= high]
            if len(found) >= 3:
                return found
        return found
    size = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(m * size for m in (1, 2, 5, 10) if (high - low) / (m * size) <= 5.5)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    """A number that fits beside an axis."""
    if value == 0 or 0.001 <= abs(value) < 1e5:
        return f"{value:g}"
    power = math.floor(math.log10(abs(value)) + 1e-9)
    return f"{value / 10.0**power:.2g}e{power}"


def _axes(frame: Frame, x_label: str) -> str:
    (left, bottom), (right, top) = (
        frame.point(frame.x[0], frame.y[0]),
        frame.point(frame.x[1], frame.y[1]),
    )
    parts = [f'<path class="axis" d="M{left} {top}V{bottom}H{right}"/>']
    for value in _ticks(*frame.x, frame.log_x):
        x = frame.point(value, frame.y[0])[0]
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{_short(value)}</text>'
        )
    for value in _ticks(*frame.y, frame.log_y):
        y = frame.point(frame.x[0], value)[1]
        parts.append(f'<path class="axis" d="M{left} {y:.1f}H{right}" opacity="0.5"/>')
        parts.append(
            f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>'
        )
    middle = (left + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{x_label}</text>')
    return "".join(parts)


def chart(
    series: Sequence[Series],
    frame: Frame,
    x_label: str,
    caption: str,
    backdrop: Image.Image | None = None,
    threads: Sequence[Series] = (),
) -> str:
    """Curves told apart by colour and dashes; `threads` are thin, over a `backdrop` that fills."""
    inside = [_axes(frame, x_label)]
    if backdrop is not None:
        (x, y), (right, bottom) = (
            frame.point(frame.x[0], frame.y[1]),
            frame.point(frame.x[1], frame.y[0]),
        )
        box = f'x="{x}" y="{y}" width="{right - x}" height="{bottom - y}"'
        inside.append(f'<image {box} preserveAspectRatio="none" href="{_png(backdrop)}"/>')
    inside += [f'<path class="thread" d="{frame.path(t.x, t.y)}"/>' for t in threads]
    legend = []
    for i, one in enumerate(series):
        colour = f"var(--c{i % 6})"
        stroke = f'style="stroke: {colour}" stroke-dasharray="{DASHES[i % 6]}"'
        if one.low:
            band = [(a, *ends) for a, *ends in zip(one.x, one.low, one.high, strict=True)
                    if all(map(math.isfinite, ends))]  # fmt: skip
            edge = [frame.point(a, low) for a, low, _ in band]
            back = [frame.point(a, high) for a, _, high in band]
            around = " ".join(f"{a:.1f},{b:.1f}" for a, b in edge + back[::-1])
            inside.append(f'<polygon points="{around}" style="fill: {colour}" opacity="0.18"/>')
        inside.append(f'<path class="curve" {stroke} d="{frame.path(one.x, one.y)}"/>')
        for a, b in zip(one.x, one.y, strict=True) if one.dots else ():
            if not math.isfinite(b):
                continue
            x, y = frame.point(a, b)
            said = f"<title>{one.name}: {b:.4g} at {a:g}</title>"
            place = f'cx="{x:.1f}" cy="{y:.1f}" r="3.5"'
            inside.append(f'<circle {place} style="fill: {colour}">{said}</circle>')
        sample = f'<svg viewBox="0 0 28 8"><path class="curve" {stroke} d="M0 4H28"/></svg>'
        legend.append(f"<span>{sample}{one.name}</span>")
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(inside)}</svg>'
    keys = f'<div class="legend">{"".join(legend)}</div>' if legend else ""
    return f"<figure>{svg}{keys}<figcaption>{caption}</figcaption></figure>"


def charts(figures: Sequence[str]) -> str:
    """Charts side by side where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>'
