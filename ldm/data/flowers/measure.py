"""What pixels alone say about a drawn flower: the colour and the number of its petals.

Made for `ldm.data.drawn`, whose petal colours and backgrounds are told apart by hue, saturation and
value, and kept tolerant of what a generator does to them: blur, noise, small shifts of colour.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

# name -> hue (degrees, low to high, through 360), least and greatest saturation, least value
CLASSES: dict[str, tuple[float, float, float, float, float]] = {
    "red": (342, 12, 0.58, 1.01, 0.36),
    "orange": (12, 38, 0.60, 1.01, 0.52),
    "yellow": (38, 66, 0.46, 1.01, 0.58),
    "pink": (314, 354, 0.18, 0.58, 0.66),
    "purple": (246, 314, 0.30, 1.01, 0.36),
    "blue": (208, 246, 0.56, 1.01, 0.46),
    "white": (0, 360, -0.01, 0.17, 0.72),
}
LEAST, MOST = 0.012, 0.65  # the share of the picture that petals may take
DENSEST = 0.35  # what is more scattered is no flower: drawn flowers have 0.57 and more, noise 0.15
SIDE = 96  # pixels at which colours are looked at; counting looks at twice that


def _hsv(image: Image.Image, side: int, blur: float) -> np.ndarray:
    """Hue in degrees, saturation and value in [0, 1], (3, side, side), slightly smoothed."""
    small = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
    rgb = np.asarray(small, dtype=np.float64).transpose(2, 0, 1) / 255
    r, g, b = ndimage.gaussian_filter(rgb, (0, blur, blur))
    high, low = np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)
    spread = high - low
    safe = np.where(spread > 0, spread, 1)
    hue = np.select(
        [high == r, high == g], [((g - b) / safe) % 6, (b - r) / safe + 2], (r - g) / safe + 4
    )
    return np.stack([hue * 60, spread / np.where(high > 0, high, 1), high])


def _within(hsv: np.ndarray, colour: str) -> np.ndarray:
    """Which pixels could be petals of a colour: bool (side, side)."""
    low, high, least, greatest, value = CLASSES[colour]
    hue = (hsv[0] - low) % 360 <= (high - low) % 360 if high - low != 360 else True
    return hue & (hsv[1] >= least) & (hsv[1] < greatest) & (hsv[2] >= value)


def _parts(mask: np.ndarray) -> np.ndarray:
    """The connected parts of a mask without its crumbs: narrow petals may not touch each other."""
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return (sizes >= 0.2 * sizes.max())[parts] & mask


def _petals(image: Image.Image, side: int) -> tuple[str, np.ndarray] | None:
    """The colour that fills most of the picture among those of petals, and where."""
    hsv = _hsv(image, side, 0.9 * side / SIDE)
    found = {colour: _parts(_within(hsv, colour)) for colour in CLASSES}
    colour = max(found, key=lambda name: found[name].sum())
    mask = found[colour]
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if not LEAST <= mask.mean() <= MOST or border.mean() > 0.4 or _density(mask) < DENSEST:
        return None
    return colour, mask


def _density(mask: np.ndarray) -> float:
    """The share of its ellipse of inertia that a mask fills: 1 for a disc, little for crumbs."""
    points = np.argwhere(mask)
    return len(points) / (4 * np.pi * np.sqrt(max(np.linalg.det(np.cov(points.T)), 1e-9)))


def petal_colour(image: Image.Image) -> str | None:
    """The name of the petals' colour, one of `flower.PETALS`; None where there is no flower."""
    found = _petals(image, SIDE)
    return found[0] if found else None


def petal_count(image: Image.Image) -> int | None:
    """How many petals there are, 3 to 10; None where there is no flower or no petal stands out.

    A rosette with n >= 3 petals has isotropic second moments, so whitening those of its silhouette
    undoes the foreshortening; then the strongest angular harmonic of the silhouette is n.
    """
    found = _petals(image, 2 * SIDE)
    if found is None:
        return None
    mask = ndimage.binary_fill_holes(found[1])
    points = np.argwhere(mask).astype(np.float64)
    points -= points.mean(axis=0)
    moments, axes = np.linalg.eigh(points.T @ points / len(points))
    if moments[0] < 1:
        return None
    x, y = ((points @ axes) / np.sqrt(moments)).T
    angle, reach = np.arctan2(y, x), np.hypot(x, y)
    weight = reach**4
    harmonics = np.arange(3, 11)
    power = np.abs(np.exp(1j * harmonics[:, None] * angle) @ weight) / weight.sum()
    return int(harmonics[power.argmax()]) if power.max() > 0.02 else None
