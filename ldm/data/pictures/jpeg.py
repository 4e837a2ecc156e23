"""JPEGs that were cut off and closed all the same, of which Pillow does not tell."""

import numpy as np
from PIL import Image

END = b"\xff\xd9"


def ends_in_grey(image: Image.Image) -> bool:
    """Whether the last pixel is the mid-grey that libjpeg gives for what is missing."""
    width, height = image.size
    last = np.asarray(image.crop((width - 1, height - 1, width, height)))
    return bool(last.min() >= 127 and last.max() <= 128)


def lengthened(data: bytes) -> bytes:
    """A JPEG with more bytes before its end: another picture only where some are missing there."""
    end = data.rfind(END)
    return data[:end] + b"\x55" * 64 + data[end:] if end >= 0 else data
