"""Does the picture show what its prompt asks for? A share of images, with Wilson's interval.

On the drawn flowers petal colour and count are measured exactly (ldm.data.flowers.measure). On
photos the colour of the bloom is, by the rule in ldm.evaluation.bloom; what share of the real
photos passes it is the figure to compare with.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from PIL import Image
from scipy.special import ndtri

from ldm.data.flowers.flower import COUNTS, PETALS
from ldm.data.flowers.measure import petal_colour, petal_count
from ldm.evaluation.bloom import bloom_colour
from ldm.evaluation.records import Record, jsonable

Measure = Callable[[Image.Image], object]
MEASURES: dict[str, Measure] = {
    "colour": petal_colour,
    "count": petal_count,
    "bloom": bloom_colour,
}


def asked(prompt: str) -> dict[str, object]:
    """What a prompt asks for, by the names of MEASURES: a flower's colour and number of petals.

    A colour counts if it comes before the flower ("a red flower with a yellow centre" is red).
    """
    found: dict[str, object] = {}
    words = re.findall(r"[a-z]+", prompt.lower())
    names = [i for i, word in enumerate(words) if word in PETALS]
    if names and not {"centre", "center", "background", "sky"} & set(words[: names[0] + 2]):
        found["colour"] = found["bloom"] = words[names[0]]
    numbers = {name: n for n, name in COUNTS.items()}
    for word, following in pairwise(words):
        if word in numbers and following == "petals":
            found["count"] = numbers[word]
    return found


def wilson(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share; it stays in [0, 1] and is honest at 0 and n of n."""
    if not n:
        return 0.0, 1.0
    z = float(ndtri(0.5 + confidence / 2))
    share, spread = right / n, z / n * (right * (n - right) / n + z * z / 4) ** 0.5
    scale = 1 + z * z / n
    middle = share + z * z / (2 * n)
    low = (middle - spread) / scale if right else 0.0  # exactly, where rounding would leave 1e-17
    return low, (middle + spread) / scale if right < n else 1.0


@dataclass(frozen=True)
class Row(Record):
    """How often one prompt got what it asked for."""

    prompt: str
    measure: str
    wanted: object
    right: int
    n: int
    seen: Mapping[str, int]  # what the images show, most frequent first

    @property
    def share(self) -> float:
        return self.right / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, at 95 %."""
        return wilson(self.right, self.n)

    def summary(self) -> dict[str, Any]:
        """As JSON, with the share and the ends of its interval."""
        low, high = self.interval
        return jsonable({**vars(self), "share": self.share, "low": low, "high": high})


def adherence(prompt: str, measure: str, images: Iterable[Image.Image]) -> Row:
    """Measure `images` made for `prompt`. Raises KeyError where it does not ask for `measure`."""
    wanted = asked(prompt)[measure]
    seen: dict[str, int] = {}
    for image in images:
        value = str(MEASURES[measure](image))
        seen[value] = seen.get(value, 0) + 1
    order = dict(sorted(seen.items(), key=lambda item: (-item[1], item[0])))
    return Row(prompt, measure, wanted, seen.get(str(wanted), 0), sum(seen.values()), order)


def by_wanted(prompts: Sequence[str], images: Sequence[Image.Image], measure: str) -> list[Row]:
    """Images of many prompts, a row for each thing that they ask for; others are left out."""
    groups: dict[str, list[tuple[str, Image.Image]]] = {}
    for prompt, image in zip(prompts, images, strict=True):
        if measure in (found := asked(prompt)):
            groups.setdefault(str(found[measure]), []).append((prompt, image))
    rows = []
    for wanted, pairs in sorted(groups.items()):
        row = adherence(pairs[0][0], measure, [image for _, image in pairs])
        rows.append(replace(row, prompt=f"{measure} {wanted}"))
    return rows


def total(rows: Sequence[Row]) -> Row:
    """All prompts of one measure together."""
    seen: dict[str, int] = {}
    for row in rows:
        for value, count in row.seen.items():
            seen[value] = seen.get(value, 0) + count
    right, n = sum(row.right for row in rows), sum(row.n for row in rows)
    return Row("all", rows[0].measure, "", right, n, seen)


def table(rows: Sequence[Row]) -> str:
    """A plain-text table, one line for each row and one for each measure's total."""
    by_measure: dict[str, list[Row]] = {}
    for row in rows:
        by_measure.setdefault(row.measure, []).append(row)
    shown = list(rows) + [total(group) for group in by_measure.values() if len(group) > 1]
    width = max(len("prompt"), *(len(row.prompt) for row in shown))
    lines = [f"{'prompt':{width}}  measure  right    n   share  95 % interval  most often"]
    for row in shown:
        low, high = row.interval
        often = ", ".join(f"{value} {count}" for value, count in list(row.seen.items())[:3])
        lines.append(
            f"{row.prompt:{width}}  {row.measure:7}  {row.right:5} {row.n:4}  {row.share:6.1%}  "
            f"{low:6.1%} {high:6.1%}  {often if row.prompt != 'all' else ''}".rstrip()
        )
    return "\n".join(lines)
