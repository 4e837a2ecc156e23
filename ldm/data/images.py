"""Batches of pixels for one process, decoded by workers."""

import signal
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ldm.core.errors import UserError
from ldm.core.keyed import generator, uniform
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


class Batch(NamedTuple):
    pixels: Tensor  # float32 (B, 3, R, R) in [-1, 1]
    slots: list[int]  # of the step


class ImageDataset(Dataset):
    """Training images by slot: crop and mirroring are keyed by (seed, step, slot)."""

    def __init__(self, source: Source, config: PixelOptions, seed: int) -> None:
        self.source, self.seed = source, seed
        self.resolution, self.crop, self.flip = config.resolution, config.crop, config.flip

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, slot: Slot) -> tuple[Tensor, int] | BadImage:
        """Pixels and slot, or why the image, which was sound when checked, is none now."""
        key = (self.seed, slot.step, slot.slot)
        try:
            image = self.source.image(slot.index)
        except BadImage as bad:
            return bad
        flip = self.flip and uniform(*key, "flip") < 0.5
        pixels = to_pixels(image, self.resolution, self.crop, flip, generator(*key, "crop"))
        return normalise(pixels), slot.slot


def collate(items: list[tuple[Tensor, int] | BadImage]) -> Batch | BadImage:
    """Stack the pixels. Of a bad image nothing is left but that it is.

    It travels as a value: what a worker raises arrives as the text of a traceback.
    """
    sound = []
    for item in items:
        if isinstance(item, BadImage):
            return item
        sound.append(item)
    return Batch(torch.stack([pixels for pixels, _ in sound]), [slot for _, slot in sound])


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
