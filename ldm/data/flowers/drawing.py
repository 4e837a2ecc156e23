"""A flower's parameters become a picture, at any resolution.

Every shape is an implicit function whose first-order distance gives soft, one-pixel edges, so one
index draws the same flower at 64 and at 512 pixels. float64 throughout; nothing is random here.
"""

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from functools import lru_cache

import numpy as np
from PIL import Image

from ldm.data.flowers.flower import CENTRES, Flower

# The two ends of a background's vertical gradient, and the colour of what is out of focus in it:
# (degrees, saturation, value). None of them is a petal's colour.
SCENES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "meadow": ((98, 0.48, 0.72), (122, 0.62, 0.38), (88, 0.52, 0.86)),
    "sky": ((210, 0.52, 0.82), (201, 0.30, 0.95), (203, 0.26, 0.98)),
    "night": ((232, 0.62, 0.13), (248, 0.50, 0.27), (236, 0.55, 0.36)),
    "soil": ((27, 0.46, 0.46), (20, 0.56, 0.24), (32, 0.44, 0.54)),
    "sea": ((184, 0.40, 0.84), (178, 0.68, 0.54), (174, 0.34, 0.90)),
}
LIGHT = np.array([-0.6, -0.8])  # where it comes from; y runs downwards
GOLDEN = np.pi * (3 - np.sqrt(5))


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    clipped = (min(max(c, 0.0), 1.0) for c in (saturation, value))
    return np.array(hsv_to_rgb(hue % 360 / 360, *clipped))


def _mix(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """From colour a to colour b, (3,) each, as t (h, w) goes from 0 to 1: (3, h, w)."""
    return a[:, None, None] + (b - a)[:, None, None] * t


@lru_cache(maxsize=8)
def _pixel_centres(resolution: int) -> np.ndarray:
    return (np.arange(resolution) + 0.5) / resolution


class _Canvas:
    """A picture being painted: `rgb` (3, R, R) in [0, 1], over the unit square."""

    def __init__(self, resolution: int) -> None:
        self.axis = _pixel_centres(resolution)
        self.pixel = 1 / resolution
        self.rgb = np.empty((3, resolution, resolution))

    def window(self, points: np.ndarray, margin: float) -> tuple[slice, slice]:
        """The rows and columns around points (2, n), so that only they are computed."""
        low, high = points.min(axis=1) - margin, points.max(axis=1) + margin
        columns, rows = (
            slice(*np.searchsorted(self.axis, (low[i], high[i])).tolist()) for i in (0, 1)
        )
        return rows, columns

    def coverage(self, distance: np.ndarray) -> np.ndarray:
        """How much of a pixel lies inside, from the signed distance of its centre."""
        return np.clip(distance / self.pixel + 0.5, 0, 1)

    def over(self, where: tuple[slice, slice], colour: np.ndarray, alpha: np.ndarray) -> None:
        part = self.rgb[:, where[0], where[1]]
        part += (colour - part) * alpha

    def darken(self, where: tuple[slice, slice], amount: np.ndarray) -> None:
        self.rgb[:, where[0], where[1]] *= 1 - amount

    def blobs(self, x: np.ndarray, y: np.ndarray, spread: np.ndarray, w: np.ndarray) -> np.ndarray:
        """A sum of round Gaussians, (R, R); narrow ones keep their light instead of aliasing."""
        s = np.sqrt(spread**2 + (0.5 * self.pixel) ** 2)[:, None]
        columns = np.exp(-(((self.axis - x[:, None]) / s) ** 2))
        rows = np.exp(-(((self.axis - y[:, None]) / s) ** 2)) * (w * spread**2)[:, None] / s**2
        return rows.T @ columns


def _background(canvas: _Canvas, flower: Flower) -> None:
    top, bottom, glow = (_rgb(*tone) for tone in SCENES[flower.background])
    u = np.array(flower.texture)
    slant = (canvas.axis - 0.5) * (u[0] - 0.5) * 0.5
    t = np.clip(canvas.axis[:, None] * 0.9 + 0.05 + slant, 0, 1)
    canvas.rgb[:] = _mix(top, bottom, t * t * (3 - 2 * t))

    everywhere = slice(None), slice(None)
    soft = canvas.blobs(u[1:11], u[11:21], 0.07 + 0.16 * u[21:31], 0.25 + 0.5 * u[31:41])
    canvas.over(everywhere, glow[:, None, None], np.clip(soft * 0.55, 0, 0.75))
    dark = canvas.blobs(u[5:13], 1 - u[21:29], 0.10 + 0.12 * u[31:39], 0.10 + 0.15 * u[11:19])
    murk = 0.35 if flower.background in ("sky", "sea") else 1.0
    canvas.darken(everywhere, np.clip(dark * murk, 0, 0.3))
    if flower.background == "night":
        stars = canvas.blobs(u[:40], u[24:], np.full(40, 0.004), 0.4 + 0.6 * np.roll(u, 7)[:40])
        canvas.over(everywhere, np.array([0.95, 0.95, 1.0])[:, None, None], np.clip(stars, 0, 0.9))
    edge = (canvas.axis - 0.5) ** 2
    canvas.darken(everywhere, 0.35 * np.clip(edge[:, None] + edge - 0.12, 0, 1))


def _petal(
    canvas: _Canvas,
    base: np.ndarray,
    frame: np.ndarray,
    tones: Sequence[np.ndarray],
    width: float,
    taper: float,
    point: float,
    veins: float,
    shadow: float,
) -> None:
    """One petal or leaf: `frame` (2, 2) has its axis and its lateral unit as columns, in pixels.

    With u along the axis from 0 to 1 and v across, the inside is 1 - a^2 - |b|^point > 0 where
    a = (u - 1/2) / (1/2) and b = v / (width * (1 + taper * (u - 1/2))): an egg, pointed or round.
    """
    corners = np.array([[0, 0, 1, 1], [-1.3 * width, 1.3 * width] * 2])
    where = canvas.window(frame @ corners + base[:, None], 0.05 if shadow else 2 * canvas.pixel)
    x, y = canvas.axis[where[1]] - base[0], canvas.axis[where[0]][:, None] - base[1]
    if not x.size or not y.size:
        return
    (ux, uy), (vx, vy) = np.linalg.inv(frame)
    u, v = ux * x + uy * y, vx * x + vy * y
    a = 2 * u - 1
    reach = width * np.maximum(1 + taper * (u - 0.5), 0.1)
    b = v / reach
    size = np.abs(b) + 1e-9
    power = size**point
    f = 1 - a * a - power
    fu = -4 * a + point * power * width * taper / reach
    fv = -point * power / size * np.sign(b) / reach
    slope = np.hypot(fu * ux + fv * vx, fu * uy + fv * vy)
    distance = f / np.maximum(slope, 1e-6)

    if shadow:
        fade = np.clip(-distance / 0.022, 0, None)
        canvas.darken(where, shadow * np.exp(-fade * fade) * np.clip(6 * u, 0, 1))
    deep, body, tip = tones
    t = np.clip(u, 0, 1)
    colour = _mix(deep, body, np.clip(t * 2.2, 0, 1))
    colour += (tip[:, None, None] - colour) * (np.clip((t - 0.45) / 0.55, 0, 1) ** 2 * 0.75)
    across = np.clip(b, -1, 1)
    lateral = frame[:, 1] / np.hypot(*frame[:, 1])
    axial = frame[:, 0] / np.hypot(*frame[:, 0])
    relief = 0.13 * across * float(lateral @ LIGHT) + 0.07 * (2 * t - 1) * float(axial @ LIGHT)
    rib = 0.10 * np.exp(-((v / (0.16 * width)) ** 2)) * np.clip(1.15 - t, 0, 1)
    lines = veins * np.cos(across * 14) * (1 - t) * t * 4
    rim = 0.06 * np.clip(1 - f * 3, 0, 1)
    colour *= 1.02 + relief - rib + lines + rim - 0.10 * across * across
    canvas.over(where, np.clip(colour, 0, 1), canvas.coverage(distance))


def _stem(canvas: _Canvas, flower: Flower) -> None:
    u = flower.texture
    green = _rgb(96 + 20 * u[41], 0.62, 0.50 if flower.background != "meadow" else 0.40)
    light, deep = np.clip(green * 1.45 + 0.05, 0, 1), green * 0.6
    bend, half = (u[42] - 0.5) * 0.5, 0.011 + 0.05 * flower.radius * 0.35

    def at(s: np.ndarray | float) -> np.ndarray | float:
        return flower.x + bend * s * s

    s = canvas.axis[:, None] - flower.y
    slope = 2 * bend * s
    across = (canvas.axis - at(s)) / np.sqrt(1 + slope * slope)
    everywhere = slice(None), slice(None)
    inside = canvas.coverage(half - np.abs(across)) * (s > 0)
    canvas.darken(everywhere, 0.25 * np.exp(-((across / (2.2 * half)) ** 2)) * (s > 0))
    shade = np.clip(across / half, -1, 1)
    canvas.over(everywhere, _mix(green, deep, np.clip(0.5 + 0.5 * shade, 0, 1)), inside)
    for leaf in range(flower.leaves):
        side = 1 if (leaf + (u[43] < 0.5)) % 2 else -1
        drop = 0.30 + 0.16 * u[44 + leaf] + 0.06 * leaf
        length = 0.20 + 0.10 * u[46 + leaf]
        lift = 0.35 + 0.5 * u[48 + leaf]
        axis = np.array([side * np.cos(lift), -np.sin(lift)]) * length
        frame = np.stack([axis, np.array([-axis[1], axis[0]])], axis=1)
        root = np.array([at(drop), flower.y + drop])
        _petal(canvas, root, frame, (deep, green, light), 0.20, -0.3, 1.5, 0.03, 0.15)


def _bloom(canvas: _Canvas, flower: Flower) -> None:
    u = flower.texture
    hue, saturation, value = flower.hsv
    body = _rgb(hue, saturation, value)
    if flower.colour == "white":
        tones = _rgb(52 + 20 * u[50], 0.13, 0.90), body, np.ones(3)
    else:
        tones = (
            _rgb(hue, saturation * 1.12, value * (0.72 + 0.1 * u[50])),
            body,
            _rgb(hue, saturation * 0.82, value * 1.08 + 0.02),
        )
    axis = np.array([np.cos(flower.tilt_axis), np.sin(flower.tilt_axis)])
    squash = np.eye(2) - (1 - np.cos(flower.tilt)) * np.outer(axis, axis)  # seen from aside
    centre = np.array([flower.x, flower.y])
    r = flower.radius

    ring = centre[:, None] + np.array([[-1, 1], [-1, 1]]) * r * 1.6
    where = canvas.window(ring, 0)
    x, y = canvas.axis[where[1]] - centre[0] - 0.02, canvas.axis[where[0]][:, None] - centre[1]
    canvas.darken(where, 0.30 * np.exp(-(((x * x + (y - 0.035) ** 2) / (0.85 * r) ** 2) ** 2)))

    inner = 0.35 * flower.disc  # petals start under the centre
    for k in range(flower.petals):
        sway = (u[51 + k % 8] - 0.5) * 0.10
        angle = flower.rotation + 2 * np.pi * (k + sway) / flower.petals
        length = r * (1 - inner) * (1 - 0.06 * u[(3 * k + 5) % 64])
        along = np.array([np.cos(angle), np.sin(angle)])
        frame = squash @ np.stack([along, np.array([-along[1], along[0]])], axis=1) * length
        width = flower.width * 0.66 * np.tan(np.pi / flower.petals)
        if flower.petals == 4:
            width *= 0.86
        bright = 1 + 0.08 * (u[(5 * k + 11) % 64] - 0.5)
        shaded = [np.clip(tone * bright, 0, 1) for tone in tones]
        root = centre + squash @ along * inner * r
        _petal(
            canvas, root, frame, shaded, width, flower.taper, flower.point, 0.02 + 0.02 * u[59], 0.2
        )
    _disc(canvas, flower, squash, centre)


def _disc(canvas: _Canvas, flower: Flower, squash: np.ndarray, centre: np.ndarray) -> None:
    u = flower.texture
    hue, saturation, value = CENTRES[flower.centre]
    hue, value = hue + 6 * (u[60] - 0.5), value * (0.94 + 0.06 * u[61])
    base, deep = _rgb(hue, saturation, value), _rgb(hue - 8, saturation * 1.1, value * 0.58)
    radius = flower.radius * flower.disc
    where = canvas.window(centre[:, None] + np.array([[-1, 1], [-1, 1]]) * radius * 1.5, 0.02)
    x, y = canvas.axis[where[1]] - centre[0], canvas.axis[where[0]][:, None] - centre[1]
    (a, b), (c, d) = np.linalg.inv(squash) / radius
    p, q = a * x + b * y, c * x + d * y
    rho = np.sqrt(p * p + q * q)
    canvas.darken(where, 0.34 * np.exp(-((np.clip(rho - 1, 0, None) / 0.22) ** 2)))
    shade = np.clip(0.55 * rho**3 - 0.28 * (p * LIGHT[0] + q * LIGHT[1]), 0, 1)
    canvas.over(where, _mix(base, deep, shade), canvas.coverage((1 - rho) * radius))

    k = np.arange(70)  # florets on a sunflower's spiral
    reach, turn = np.sqrt((k + 0.5) / 70) * 0.92 * radius, k * GOLDEN + 6 * u[62]
    spots = squash @ np.stack([reach * np.cos(turn), reach * np.sin(turn)]) + centre[:, None]
    size = np.full(70, radius * 0.055)
    light = canvas.blobs(spots[0] - 0.25 * size, spots[1] - 0.35 * size, size, np.full(70, 0.55))
    tip = np.clip(base * 1.25 + 0.10, 0, 1)
    inside = canvas.coverage((1 - rho) * radius)
    canvas.over(where, tip[:, None, None], np.clip(light[where], 0, 0.8) * inside)


def draw(flower: Flower, resolution: int = 64) -> Image.Image:
    """Paint a flower: an RGB image of resolution x resolution pixels."""
    canvas = _Canvas(resolution)
    _background(canvas, flower)
    if flower.stem:
        _stem(canvas, flower)
    _bloom(canvas, flower)
    pixels = np.rint(np.clip(canvas.rgb, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
