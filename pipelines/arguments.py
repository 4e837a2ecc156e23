"""What the commands' arguments may be; argparse turns a refusal into one sentence and status 2."""

from argparse import ArgumentTypeError
from pathlib import Path

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")  # what Pillow and matplotlib write


def positive(text: str) -> int:
    """An integer of at least 1."""
    if (number := int(text)) < 1:
        raise ArgumentTypeError(f"{number} is not at least 1")
    return number


def picture(text: str) -> Path:
    """The path of a picture to write."""
    if (path := Path(text)).suffix.lower() not in PICTURES:
        raise ArgumentTypeError(f"{text!r} does not end as a picture: {', '.join(PICTURES)}")
    return path


def picture_or_folder(text: str) -> Path:
    """The path of a picture to write, or, without a dot, of a folder for many."""
    return picture(text) if Path(text).suffix else Path(text)
