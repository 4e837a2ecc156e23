import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from ldm.data.drawn import PETALS, draw, petal_colour, petal_count, truth
from ldm.data.flowers import drawing

HELD_OUT = range(5000, 5600)  # not those that the measure was made with


@pytest.fixture(scope="module")
def flowers():
    return [(truth(i), draw(truth(i), 128)) for i in HELD_OUT[:150]]


def test_petal_colour_is_exact_on_the_drawn_set(flowers):
    wrong = [(f.index, f.colour, petal_colour(im)) for f, im in flowers]
    assert [w for w in wrong if w[1] != w[2]] == []


def test_petal_count_is_exact_on_the_drawn_set(flowers):
    wrong = [(f.index, f.petals, petal_count(im)) for f, im in flowers[::2]]
    assert [w for w in wrong if w[1] != w[2]] == []


@pytest.mark.slow
def test_both_are_exact_on_many_more():
    for flower in map(truth, HELD_OUT[150:]):
        image = draw(flower, 128)
        assert (petal_colour(image), petal_count(image)) == (flower.colour, flower.petals), flower


@pytest.mark.parametrize("resolution", [32, 64, 256])
def test_colour_and_count_are_read_at_other_resolutions(resolution):
    for index in range(7000, 7030):
        flower = truth(index)
        image = draw(flower, resolution)
        assert petal_colour(image) == flower.colour
        if resolution >= 64:
            assert petal_count(image) == flower.petals


def noisy(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, dtype=float)
    noise = np.random.default_rng(0).normal(0, 25, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def compressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).convert("RGB")


def hue_shifted(image: Image.Image) -> Image.Image:
    h, s, v = image.convert("HSV").split()
    return Image.merge("HSV", (h.point(lambda x: (x + 3) % 256), s, v)).convert("RGB")  # 4 degrees


CHANGES = {
    "blurred": lambda im: im.filter(ImageFilter.GaussianBlur(0.02 * im.width)),
    "noisy": noisy,
    "compressed": compressed,
    "hue-shifted": hue_shifted,
    "paler": lambda im: ImageEnhance.Color(im).enhance(0.85),
    "darker": lambda im: ImageEnhance.Brightness(im).enhance(0.85),
    "off-centre": lambda im: im.crop((20, 12, 122, 114)),
    "mirrored": lambda im: im.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_generator_does_to_a_picture_changes_no_colour(flowers, change):
    wrong = [f.index for f, im in flowers[:100] if petal_colour(CHANGES[change](im)) != f.colour]
    assert wrong == []


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_generator_does_to_a_picture_changes_few_counts(flowers, change):
    right = [petal_count(CHANGES[change](im)) == f.petals for f, im in flowers[:40]]
    assert np.mean(right) >= 0.95


@pytest.mark.parametrize("scene", drawing.SCENES)
def test_a_background_alone_has_no_flower(scene, monkeypatch):
    monkeypatch.setattr(drawing, "_bloom", lambda canvas, flower: None)
    found = [truth(i) for i in range(600) if truth(i).background == scene]
    for flower in found[:40]:
        image = draw(flower, 64)
        assert petal_colour(image) is None
        assert petal_count(image) is None


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [40, 80, 1000])
def test_noise_has_no_flower(seed, spread):
    values = np.random.default_rng(seed).normal(128, spread, (64, 64, 3))
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    assert petal_colour(image) is None
    assert petal_count(image) is None


@pytest.mark.parametrize("colour", ["black", "white", "grey", "red", "yellow", "purple", "green"])
def test_a_plain_picture_has_no_flower(colour):
    image = Image.new("RGB", (64, 64), colour)
    assert petal_colour(image) is None
    assert petal_count(image) is None


def test_every_colour_can_be_told():
    from ldm.data.flowers.measure import CLASSES

    assert set(CLASSES) == set(PETALS)
