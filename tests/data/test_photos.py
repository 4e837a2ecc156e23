"""The real photos, where they are."""

from collections import Counter
from pathlib import Path

import pytest
from pictures import config

from ldm.data.images import ImageDataset, image_loader
from ldm.data.order import micro_batches
from ldm.data.quarantine import checked
from ldm.data.source import open_source

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "flowers"
pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"the photos are not at {PHOTOS}")


def test_both_splits_are_found():
    assert len(open_source(config(PHOTOS))) == 2925
    assert len(open_source(config(PHOTOS), "validation")) == 307


def test_one_or_all_captions_are_read():
    one, every = open_source(config(PHOTOS, caption="text")), open_source(config(PHOTOS))
    assert all(len(one.captions(i)) == 1 for i in range(len(one)))
    assert min(len(every.captions(i)) for i in range(len(every))) >= 2
    assert not one.notes and "'captions'" in every.notes[0] and len(every.notes) == 1


def test_species_are_classes():
    source = open_source(config(PHOTOS), needs="label")
    assert source.label_names == ("daisy", "dandelion", "rose", "sunflower", "tulip")
    counts = Counter(source.captions(i)[0] for i in range(len(source)))
    assert set(counts) == set(source.label_names)
    assert all(source.name(i).startswith(source.captions(i)[0]) for i in range(len(source)))


def test_every_photo_of_the_validation_set_is_sound(tmp_path):
    assert len(checked(open_source(config(PHOTOS), "validation"), tmp_path)) == 307


def test_photos_are_batched():
    options = config(PHOTOS, resolution=64)
    source = open_source(options)
    slots = micro_batches(0, len(source), 16, stop=2)
    batches = list(image_loader(ImageDataset(source, options, 0), slots, 2))
    assert [tuple(b.pixels.shape) for b in batches] == [(16, 3, 64, 64)] * 2
    assert 0.1 < batches[0].pixels.std() < 1
