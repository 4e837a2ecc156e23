"""Images of many prompts, a batch at a time."""

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from pipelines.text_to_image import TextToImagePipeline


def many(
    pipe: TextToImagePipeline,
    prompts: Sequence[str],
    seed: int,
    size: int,
    tick: Callable[[int], object] = lambda images: None,
    **options: Any,
) -> list[Image.Image]:
    """An image of each prompt, the i-th by seed + i; `size` at once, which no image depends on.

    `options` are those of the pipeline; `tick` is told how many images each batch has made.
    """
    images: list[Image.Image] = []
    for start in range(0, len(prompts), size):
        batch = list(prompts[start : start + size])
        images += pipe(batch, seed=seed + start, **options).images
        tick(len(batch))
    return images
