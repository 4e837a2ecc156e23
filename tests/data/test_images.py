import pytest
import torch
from pictures import config, picture

import ldm.data.images
from ldm.config import load_config
from ldm.core.errors import UserError
from ldm.data.images import ImageDataset, image_loader
from ldm.data.order import Slot, micro_batches
from ldm.data.pixels import normalise, to_pixels
from ldm.data.source import open_source


@pytest.fixture
def dataset(folder):
    root = folder(10)
    options = config(root, holdout=0.0, resolution=16, crop="random")
    return ImageDataset(open_source(options, needs="nothing"), options, seed=5)


def batches(dataset, *, workers=0, world=1, accumulation=1, start=0):
    parts = []
    for rank in range(world):
        slots = micro_batches(5, 10, 8, accumulation, world, rank, start, stop=4)
        parts.append(list(image_loader(dataset, slots, workers)))
    return [batch for step in zip(*parts, strict=True) for batch in step]


def test_a_batch_has_pixels_and_slots(dataset):
    pixels, slots = next(iter(image_loader(dataset, micro_batches(5, 10, 8, 2, stop=1))))
    assert pixels.shape == (4, 3, 16, 16) and pixels.dtype == torch.float32
    assert pixels.abs().max() <= 1
    assert slots == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "split", [dict(accumulation=2), dict(world=2), dict(world=2, accumulation=2), dict(workers=2)]
)
def test_every_split_sees_the_same_pixels(dataset, split):
    whole, parts = batches(dataset), batches(dataset, **split)
    assert [s for b in parts for s in b.slots] == [s for b in whole for s in b.slots]
    pixels = [torch.cat([b.pixels for b in some]) for some in (parts, whole)]
    assert torch.equal(*pixels)


def test_a_restart_sees_the_same_pixels(dataset):
    whole, rest = batches(dataset), batches(dataset, start=2)
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(rest, whole[2:], strict=True))


def test_another_step_sees_other_crops_and_flips(dataset):
    items = [dataset[Slot(step, 0, 1, 0)] for step in range(40)]
    assert len({pixels.numpy().tobytes() for pixels, _ in items}) > 30


def test_half_of_the_images_are_mirrored(folder):
    root = folder(1)
    options = config(root, holdout=0.0, resolution=16, crop="center", flip=True)
    dataset = ImageDataset(open_source(options, needs="nothing"), options, seed=0)
    plain = normalise(to_pixels(picture(0), 16))
    mirrored = 0
    for step in range(400):
        pixels, _ = dataset[Slot(step, 0, 0, 0)]
        assert torch.equal(pixels, plain) or torch.equal(pixels, plain.flip(-1))
        mirrored += torch.equal(pixels, plain.flip(-1))
    assert abs(mirrored - 200) < 5 * 10


def test_nothing_is_mirrored_unless_asked_for(folder):
    options = config(folder(1), holdout=0.0, resolution=16, flip=False)
    dataset = ImageDataset(open_source(options, needs="nothing"), options, seed=0)
    plain = normalise(to_pixels(picture(0), 16))
    assert all(torch.equal(dataset[Slot(s, 0, 0, 0)][0], plain) for s in range(20))


def test_an_unknown_crop_is_refused():
    with pytest.raises(UserError, match=r"data\.crop='middle' is not one of center, random"):
        load_config(None, ["data.crop=middle"])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_damaged_during_training_ends_it_in_a_sentence(dataset, workers, tmp_path):
    slots = list(micro_batches(5, 10, 8, stop=2))
    (tmp_path / "images" / "a" / "004.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"read before training .* now: a/004\.png: is no picture"):
        list(ldm.data.images.batches(dataset, slots, workers))
