"""How often an epoch shows an image: rare subjects may come more than once."""

import re
from collections.abc import Iterable, Mapping, Sequence

from ldm.core.errors import UserError


def repeated(captions: Iterable[Sequence[str]], repeats: Mapping[str, int]) -> list[int]:
    """The indices of one epoch, each image's as often as the words in its captions say.

    `repeats` maps words, such as "red rose", to a number of times; they stand for whole words in
    that order, of either case. The largest number that fits an image counts, and 1 where none
    does. Raises UserError for words that no caption holds, if they are to count.
    """
    texts = ["\n".join(choices) for choices in captions]
    times = [1] * len(texts)
    for words, count in repeats.items():
        if count == 1:
            continue  # as without it, also where there are no captions
        pattern = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)", re.IGNORECASE)
        fitting = [i for i, text in enumerate(texts) if pattern.search(text)]
        if not fitting:
            raise UserError(
                f"data.repeats: no caption of the training set holds the words {words!r}"
            )
        for i in fitting:
            times[i] = max(times[i], count)
    return [i for i, count in enumerate(times) for _ in range(count)]
