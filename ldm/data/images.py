"""Batches of pixels and captions for one process, decoded by workers."""

import signal
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ldm.core.errors import UserError
from ldm.core.keyed import generator, uniform
from ldm.data.captions import choose_caption
from ldm.data.example import Source
from ldm.data.order import Slot
from ldm.data.pictures.bad import BadImage
from ldm.data.pixels import normalise, to_pixels


class PixelOptions(Protocol):
    """What is read of ldm.config.DataConfig."""

    @property
    def resolution(self) -> int: ...
    @property
    def crop(self) -> str: ...
    @property
    def flip(self) -> bool: ...


class Item(TypedDict):
    pixels: Tensor  # float32 (3, R, R) in [-1, 1]
    caption: str | None
    label: int | None
    slot: int
    index: int


class Batch(TypedDict):
    pixels: Tensor  # float32 (B, 3, R, R) in [-1, 1]
    caption: list[str | None]
    label: list[int | None]
    slot: list[int]
    index: list[int]


class ImageDataset(Dataset):
    """Training examples by slot: crop, mirroring and caption are keyed by (seed, step, slot)."""

    def __init__(self, source: Source, config: PixelOptions, seed: int) -> None:
        self.source, self.seed = source, seed
        self.resolution, self.crop, self.flip = config.resolution, config.crop, config.flip

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, slot: Slot) -> Item | BadImage:
        """The example of a slot, or why its image, which was sound when checked, is none now."""
        key = (self.seed, slot.step, slot.slot)
        try:
            example = self.source[slot.index]
        except BadImage as bad:
            return bad
        pixels = to_pixels(
            example.image,
            self.resolution,
            self.crop,
            self.flip and uniform(*key, "flip") < 0.5,
            generator(*key, "crop"),
        )
        caption = choose_caption(example.captions, *key)
        return Item(
            pixels=normalise(pixels),
            caption=caption,
            label=example.label,
            slot=slot.slot,
            index=slot.index,
        )


def collate(items: list[Item | BadImage]) -> Batch | BadImage:
    """Stack the pixels; everything else is a list. Of a bad image nothing is left but that it is.

    It travels as a value: what a worker raises arrives as the text of a traceback.
    """
    for bad in items:
        if isinstance(bad, BadImage):
            return bad
    sound: list[Any] = list(items)
    lists: dict[str, Any] = {key: [item[key] for item in sound] for key in Item.__annotations__}
    return Batch(**{**lists, "pixels": torch.stack(lists["pixels"])})  # type: ignore[typeddict-item]


def leave_signals_to_the_trainer(worker: int) -> None:
    """A terminal or a scheduler signals the whole group; the trainer still needs its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def batches(
    dataset: ImageDataset, slots: Iterable[list[Slot]], workers: int = 0
) -> Iterator[Batch]:
    """One collated micro-batch for each list of `slots`.

    Raises UserError where an image was damaged or taken away since all of them were checked.
    """
    for batch in image_loader(dataset, slots, workers):
        if isinstance(batch, BadImage):
            raise UserError(
                f"an image that could be read before training cannot be read now: {batch}; put it "
                "back or remove it from the data, and run the same command again"
            )
        yield batch


def image_loader(
    dataset: ImageDataset, slots: Iterable[list[Slot]], workers: int = 0
) -> DataLoader:
    """A loader that gives one collated micro-batch, or a bad image, for each list of `slots`."""
    return DataLoader(
        dataset,
        batch_sampler=slots,  # type: ignore[arg-type]  # any iterable of lists will do
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=leave_signals_to_the_trainer,
        pin_memory=torch.cuda.is_available(),
    )
