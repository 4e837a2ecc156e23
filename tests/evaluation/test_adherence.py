import pytest
from PIL import Image, ImageFilter
from scipy.stats import binomtest

from ldm.data.flowers.drawing import draw
from ldm.data.flowers.flower import PETALS, captions, truth
from ldm.evaluation.adherence import adherence, asked, table, total, wilson
from ldm.evaluation.bloom import bloom_colour

INDICES = range(50_000, 50_100)  # not the ones the rules were read off


@pytest.fixture(scope="module")
def drawn():
    return [(truth(i), draw(truth(i), 64)) for i in INDICES]


def test_every_caption_asks_for_what_its_flower_is():
    for index in INDICES:
        flower = truth(index)
        for caption in captions(flower):
            found = asked(caption)
            assert found["colour"] == found["bloom"] == flower.colour
            assert found.get("count", flower.petals) == flower.petals


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a purple tulip in a red pot", {"colour": "purple", "bloom": "purple"}),
        ("a flower", {}),
        ("a flower with a yellow centre", {}),
        ("a flower against a blue sky", {}),
        ("six petals", {"count": 6}),
    ],
)
def test_a_prompt_asks_only_for_what_it_says_of_the_flower(prompt, wanted):
    assert asked(prompt) == wanted


def test_drawn_flowers_adhere_to_their_own_captions(drawn):
    rows = []
    for colour in PETALS:
        own = [image for flower, image in drawn if flower.colour == colour]
        rows += [adherence(f"a {colour} flower", m, own) for m in ("colour", "bloom")]
    assert all(row.share == 1 for row in rows)
    assert adherence("a red flower", "colour", [i for _, i in drawn]).right < 0.4 * len(drawn)


@pytest.mark.parametrize(
    "worsen",
    [
        lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
        lambda image: image.resize((227, 227), Image.Resampling.BICUBIC),
        lambda image: image.convert("P", palette=Image.Palette.ADAPTIVE, colors=24),
        lambda image: Image.eval(image, lambda v: int(v * 0.9)),
    ],
    ids=["blurred", "enlarged", "24 colours", "darker"],
)
def test_bloom_colour_survives_what_a_camera_or_a_generator_does(drawn, worsen):
    right = [bloom_colour(worsen(image)) == flower.colour for flower, image in drawn]
    assert sum(right) / len(right) >= 0.97


def test_leaves_sky_and_earth_are_no_bloom():
    for rgb in [(60, 130, 50), (150, 190, 220), (90, 70, 55), (20, 20, 40), (128, 128, 128)]:
        assert bloom_colour(Image.new("RGB", (32, 32), rgb)) is None


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (90, 100), (1, 3)])
def test_wilson_interval_is_scipys(right, n):
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_table_names_prompts_and_totals(drawn):
    reds = [image for flower, image in drawn if flower.colour == "red"]
    whites = [image for flower, image in drawn if flower.colour == "white"]
    rows = [
        adherence("a red flower", "colour", reds + whites[:2]),
        adherence("a white flower", "colour", whites[:8]),
    ]
    assert rows[0].seen == {"red": len(reds), "white": 2} and rows[0].n == len(reds) + 2
    everything = total(rows)
    assert (everything.right, everything.n) == (len(reds) + 8, len(reds) + 10)
    lines = table(rows).splitlines()
    assert len(lines) == 4 and "white 2" in lines[1] and lines[3].startswith("all")
