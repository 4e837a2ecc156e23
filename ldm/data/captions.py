"""What counts as a caption, and which of several a training step sees."""

from collections.abc import Sequence
from typing import Any

from ldm.keyed import integer


def read_captions(value: Any) -> tuple[str, ...]:
    """The usable captions in a column's value: a string, or a list of them; () where none is."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(text.strip() for text in values if isinstance(text, str) and text.strip())


def choose_caption(captions: Sequence[str], seed: int, step: int, slot: int) -> str | None:
    """The caption that an example trains with in one slot of one step; None: unconditionally."""
    if not captions:
        return None
    return captions[integer(seed, step, slot, "caption", below=len(captions))]
