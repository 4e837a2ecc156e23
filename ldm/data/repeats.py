"""How often an epoch shows an image: rare subjects may come more than once."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ldm.core.errors import UserError
from ldm.data.captions import Captioned, all_captions


def repeated(data: Captioned, repeats: Mapping[str, int]) -> Sequence[int]:
    """The indices of one epoch, each image's as often as the words in its captions say.

    `repeats` maps words, such as "red rose", to a number of times; they stand for whole words in
    that order, of either case. The largest number that fits an image counts, and 1 where none
    does. Raises UserError for words that no caption holds, if they are to count.
    """
    counted = {
        words: re.compile(rf"(?<!\w){re.escape(words)}(?!\w)", re.IGNORECASE)
        for words, count in repeats.items()
        if count != 1  # as without it, also where there are no captions
    }
    if not counted:
        return range(len(data))
    times, found = np.ones(len(data), np.int64), set()
    for i, choices in enumerate(all_captions(data)):
        text = "\n".join(choices)
        for words, pattern in counted.items():
            if pattern.search(text):
                found.add(words)
                times[i] = max(times[i], repeats[words])
    for words in counted:
        if words not in found:
            raise UserError(
                f"data.repeats: no caption of the training set holds the words {words!r}"
            )
    return np.repeat(np.arange(len(data)), times)  # type: ignore[return-value]  # a sequence
