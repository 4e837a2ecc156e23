"""What there is to know about a drawn flower: its parameters by index, and its captions."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Petal colours as ranges of hue (degrees), saturation and value. Neighbours leave a gap between
# them, so that a colour's name can be read back from pixels (ldm.data.flowers.measure).
PETALS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-9, 3), (0.80, 0.94), (0.76, 0.92)),
    "yellow": ((47, 54), (0.72, 0.90), (0.95, 1.0)),
    "purple": ((266, 286), (0.50, 0.70), (0.64, 0.86)),
    "white": ((20, 260), (0.0, 0.05), (0.95, 1.0)),
    "orange": ((20, 27), (0.82, 0.95), (0.95, 1.0)),
    "pink": ((328, 342), (0.36, 0.50), (0.95, 1.0)),
    "blue": ((215, 228), (0.66, 0.82), (0.78, 0.94)),
}
# The four that prompts ask for most are seen most.
COLOURS = ("red", "yellow", "purple", "white") * 2 + ("orange", "pink", "blue")

CENTRES: dict[str, tuple[float, float, float]] = {
    "yellow": (46, 0.82, 0.98),
    "brown": (24, 0.70, 0.42),
    "orange": (28, 0.88, 0.95),
    "green": (82, 0.62, 0.66),
    "dark": (285, 0.40, 0.20),
}
# A centre that its petals would swallow is not drawn.
CENTRES_OF: dict[str, tuple[str, ...]] = {
    "red": ("yellow", "dark", "green", "brown"),
    "yellow": ("brown", "orange", "green", "dark"),
    "purple": ("yellow", "orange", "green"),
    "white": ("yellow", "orange", "green", "brown"),
    "orange": ("brown", "dark", "yellow"),
    "pink": ("yellow", "brown", "green"),
    "blue": ("yellow", "orange", "dark"),
}

BACKGROUNDS: dict[str, str] = {  # name -> how a caption says it
    "meadow": "on a green background",
    "sky": "against a blue sky",
    "night": "at night",
    "soil": "on brown earth",
    "sea": "in front of a turquoise sea",
}

COUNTS = {4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}


@dataclass(frozen=True)
class Flower:
    """The whole truth of one picture; lengths are fractions of its side, angles radians."""

    index: int
    colour: str
    petals: int
    centre: str
    background: str
    hsv: tuple[float, float, float]  # of the petals: degrees, [0, 1], [0, 1]
    x: float
    y: float
    radius: float  # from the centre to a petal's tip
    rotation: float
    tilt: float  # 0 is seen from the front
    tilt_axis: float
    disc: float  # the centre's radius, relative to `radius`
    width: float  # of a petal, relative to what would close the ring
    taper: float  # > 0: widest towards the tip
    point: float  # 2 is a round tip, towards 1 a pointed one
    stem: bool
    leaves: int
    texture: tuple[float, ...]  # uniforms that place the unnamed detail


def _uniforms(index: int) -> Iterator[float]:
    """Endless uniforms in [0, 1) for one index, by raw PCG64 words: equal on every machine."""
    bits = np.random.PCG64(np.random.SeedSequence([0x0F10E5, index]))
    while True:
        yield from (bits.random_raw(64) >> np.uint64(11)) * 2.0**-53


def truth(index: int) -> Flower:
    """The flower number `index` >= 0: every choice is independent and keyed by the index."""
    stream = _uniforms(index)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(next(stream))

    def choice(options: tuple) -> object:
        return options[int(float(next(stream)) * len(options))]

    colour = str(choice(COLOURS))
    hue, saturation, value = PETALS[colour]
    petals = int(str(choice(tuple(COUNTS))))
    stem = between(0, 1) < 0.6
    return Flower(
        index=index,
        colour=colour,
        petals=petals,
        centre=str(choice(CENTRES_OF[colour])),
        background=str(choice(tuple(BACKGROUNDS))),
        hsv=(between(*hue) % 360, between(*saturation), between(*value)),
        x=between(0.42, 0.58),
        y=between(0.40, 0.47) if stem else between(0.44, 0.56),
        radius=between(0.27, 0.41),
        rotation=between(0, 2 * np.pi),
        tilt=between(0, 1) ** 1.5 * 0.65,
        tilt_axis=between(0, np.pi),
        disc=between(0.20, 0.30),
        width=between(0.80, 1.02),
        taper=between(0.1, 0.7),
        point=between(1.45, 2.0),
        stem=stem,
        leaves=int(between(0, 3)) if stem else 0,
        texture=tuple(float(next(stream)) for _ in range(64)),
    )


def captions(flower: Flower) -> tuple[str, ...]:
    """True sentences about a flower, from "a red flower" to everything that has a name."""
    colour, n = flower.colour, COUNTS[flower.petals]
    article = "an" if colour == "orange" else "a"
    one = f"{article} {colour} flower"
    eye = f"{'an' if flower.centre == 'orange' else 'a'} {flower.centre} centre"
    place = BACKGROUNDS[flower.background]
    return (
        one,
        f"{article} {colour} flower {place}",
        f"a drawing of {one}",
        f"{one} with {n} petals",
        f"{one} with {eye}",
        f"{one} with {n} petals and {eye}",
        f"{one} with {n} petals and {eye} {place}",
        f"one {colour} bloom with {n} petals {place}",
    )
