import hashlib
import re
from collections import Counter

import numpy as np
import pytest

from ldm.data.drawn import (
    BACKGROUNDS,
    COUNTS,
    PETALS,
    VALIDATION_START,
    DrawnFlowers,
    captions,
    draw,
    truth,
)


def test_an_index_draws_the_same_picture_on_every_machine():
    digest = hashlib.sha256()
    for index in (*range(8), VALIDATION_START):
        digest.update(draw(truth(index), 64).tobytes())
    assert digest.hexdigest() == (
        "94d0ff8316ec622e902cc16ac9c6758f17f0f48b963c3854641c887a80eac8de"
    )


def test_drawing_again_gives_the_same_picture():
    assert draw(truth(5), 96).tobytes() == draw(truth(5), 96).tobytes()


@pytest.mark.parametrize("resolution", [16, 64, 100, 257])
def test_any_resolution_is_drawn(resolution):
    image = draw(truth(3), resolution)
    assert (image.size, image.mode) == ((resolution, resolution), "RGB")


@pytest.mark.parametrize("index", range(6))
def test_resolutions_show_the_same_flower(index):
    small = np.asarray(draw(truth(index), 64), dtype=float)
    large = np.asarray(draw(truth(index), 256), dtype=float)
    reduced = large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(reduced - small).mean() < 1.5  # of 255: one-pixel edges differ, nothing else


def test_edges_are_soft():
    """No pixel of a petal's outline jumps: supersampling four times changes edge pixels little."""
    flower = truth(9)
    small = np.asarray(draw(flower, 64), dtype=float)
    exact = np.asarray(draw(flower, 512), dtype=float).reshape(64, 8, 64, 8, 3).mean(axis=(1, 3))
    assert np.percentile(np.abs(small - exact), 99.5) < 30


def test_every_kind_of_flower_occurs():
    flowers = [truth(i) for i in range(3000)]
    assert set(Counter(f.colour for f in flowers)) == set(PETALS)
    assert set(Counter(f.petals for f in flowers)) == set(COUNTS)
    assert set(Counter(f.background for f in flowers)) == set(BACKGROUNDS)
    assert set(Counter(f.leaves for f in flowers)) == {0, 1, 2}
    common = Counter(f.colour for f in flowers)
    assert min(common[c] for c in ("red", "yellow", "purple", "white")) > 450


def test_choices_are_independent():
    """Mutual information of colour, count and background is that of chance."""
    flowers = [truth(i) for i in range(4000)]
    for a, b in (("colour", "petals"), ("colour", "background"), ("petals", "background")):
        pairs = Counter((getattr(f, a), getattr(f, b)) for f in flowers)
        first = Counter(getattr(f, a) for f in flowers)
        second = Counter(getattr(f, b) for f in flowers)
        chi2 = sum(
            (pairs[x, y] - first[x] * second[y] / 4000) ** 2 / (first[x] * second[y] / 4000)
            for x in first
            for y in second
        )
        freedom = (len(first) - 1) * (len(second) - 1)
        assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_a_flower_lies_within_its_picture():
    for index in range(500):
        f = truth(index)
        assert f.x - f.radius > 0 and f.x + f.radius < 1
        assert f.y - f.radius > -0.01 and f.y + f.radius < 1


@pytest.mark.parametrize("index", range(40))
def test_captions_say_the_truth(index):
    flower = truth(index)
    for caption in captions(flower):
        assert flower.colour in caption.split()
        assert re.match(r"(a|an|one) ", caption)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption)
        for count, word in COUNTS.items():
            assert (f"{word} petals" not in caption) or count == flower.petals
        for name, phrase in BACKGROUNDS.items():
            assert (phrase not in caption) or name == flower.background
        if "centre" in caption:
            assert f"{flower.centre} centre" in caption


def test_captions_run_from_generic_to_detailed():
    flower = next(f for f in map(truth, range(1000)) if f.colour == "red" and f.petals == 6)
    phrases = captions(flower)
    assert phrases[0] == "a red flower"
    assert any("six petals and" in p and BACKGROUNDS[flower.background] in p for p in phrases)
    assert len(set(phrases)) == len(phrases) >= 6


def test_the_source_gives_flowers_with_their_truth():
    source = DrawnFlowers(10, 32)
    example = source[7]
    assert len(source) == 10
    assert example.captions == source.captions(7) == captions(truth(7))
    assert source.label_names[example.label] == truth(7).colour
    assert (example.name, example.image.size) == ("flower-000007", (32, 32))
    with pytest.raises(IndexError):
        source[10]


def test_fingerprints_tell_drawn_sets_apart():
    sets = [DrawnFlowers(10, 32), DrawnFlowers(11, 32), DrawnFlowers(10, 64)]
    sets.append(DrawnFlowers(10, 32, VALIDATION_START))
    assert len({s.fingerprint for s in sets}) == len({s.image_fingerprint for s in sets}) == 4
    assert DrawnFlowers(10, 32).fingerprint == sets[0].fingerprint
