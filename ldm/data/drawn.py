"""The embedded data set: flowers that the project draws itself, so their truth is known.

truth(index) -> Flower -> draw(flower, resolution), captions(flower)
petal_colour(image), petal_count(image)                 # read back from pixels alone
"""

from PIL import Image

from ldm.data.example import Source, digest
from ldm.data.flowers.drawing import draw
from ldm.data.flowers.flower import BACKGROUNDS, CENTRES, COUNTS, PETALS, Flower, captions, truth
from ldm.data.flowers.measure import petal_colour, petal_count

__all__ = [
    "BACKGROUNDS",
    "CENTRES",
    "COUNTS",
    "PETALS",
    "DrawnFlowers",
    "Flower",
    "captions",
    "draw",
    "petal_colour",
    "petal_count",
    "truth",
]

VERSION = 1  # of the drawing: a change of it is another data set
VALIDATION_START = 1_000_000_000  # held-out flowers are other indices, whatever the size


class DrawnFlowers(Source):
    """`size` flowers from `start` on; their label is the petals' colour."""

    label_names: tuple[str, ...] = tuple(PETALS)
    trusted = True

    def __init__(self, size: int, resolution: int, start: int = 0) -> None:
        self.size, self.resolution, self.start = size, resolution, start
        self.image_fingerprint = digest("drawn", VERSION, start, size, resolution)
        self.fingerprint = digest("captioned", self.image_fingerprint)

    def __len__(self) -> int:
        return self.size

    def flower(self, index: int) -> Flower:
        """The whole truth of an example."""
        if not 0 <= index < self.size:
            raise IndexError(f"flower {index} of {self.size}")
        return truth(self.start + index)

    def image(self, index: int) -> Image.Image:
        return draw(self.flower(index), self.resolution)

    def captions(self, index: int) -> tuple[str, ...]:
        return captions(self.flower(index))

    def label(self, index: int) -> int:
        return self.label_names.index(self.flower(index).colour)

    def name(self, index: int) -> str:
        return f"flower-{self.start + index:06d}"
