"""What the commands' arguments may be; argparse turns a refusal into one sentence and status 2."""

import math
from argparse import ArgumentTypeError
from pathlib import Path

from ldm.settings.fields import place

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")  # what Pillow and matplotlib write


def positive(text: str) -> int:
    """An integer of at least 1, and no more than any command can do."""
    if not 1 <= (number := int(text)) <= 10**6:
        raise ArgumentTypeError(f"{text} is not from 1 to 1,000,000")
    return number


def number(text: str) -> float:
    """A number, which NaN is not."""
    if math.isnan(value := float(text)):
        raise ArgumentTypeError(f"{text} is not a number")
    return value


def picture(text: str) -> Path:
    """The path of a picture to write."""
    if (path := Path(place(text))).suffix.lower() not in PICTURES:
        raise ArgumentTypeError(f"{text!r} does not end as a picture: {', '.join(PICTURES)}")
    return path


def picture_or_folder(text: str) -> Path:
    """The path of a picture to write, or, without a dot, of a folder for many."""
    return picture(text) if Path(text).suffix else Path(place(text))
