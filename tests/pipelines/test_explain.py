"""The page that `ldm explain` writes: whole, self-contained, and of what was asked for."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from conftest import tiny_pipeline
from PIL import Image

from ldm.core.errors import UserError
from ldm.data.drawn import petal_colour
from pipelines.explained import subject
from pipelines.explained.explain import explain
from pipelines.sheets.page import Frame, Series, chart

HEADINGS = [
    "Adding noise",
    "Schedules",
    "The same in one dimension",
    "What the loss cares about",
    "Taking noise away",
    "Guidance",
]
VOID = {"meta", "img", "path", "image", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what a test asks about."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.pictures, self.links = [], [], [], []
        self.feed(text)
        assert not self.open, f"unclosed: {self.open}"

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href"):
                kind = self.pictures if value.startswith("data:image/png;base64,") else self.links
                kind.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)


def read(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The page from 60 drawn flowers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "FLOWERS", 60)
        path = explain(tmp_path_factory.mktemp("page") / "page.html", prompt="a yellow flower")
    return path.read_text(encoding="utf-8")


def test_page_from_the_built_in_data_is_whole_and_fetches_nothing(text):
    page = Page(text)
    assert page.headings == HEADINGS
    assert page.links == []
    assert not re.search(r"@import|url\(|<script|https?:", text)
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    # 2 strips of 11 times, a density, 3 samplers x (x, x0) x 8, 5 scales x (1 + 6)
    assert len(page.pictures) == 22 + 1 + 48 + 35
    assert not re.search(r' d="[^"]*(nan|inf)', text)


def test_samples_on_the_page_are_of_the_prompt(text):
    """The exact model's results at guidance 1 and above, measured from the embedded pictures."""
    rows = dict(re.findall(r"<tr><th>(scale \d)</th>(.*?)</tr>", text))
    for scale in ("scale 1", "scale 2", "scale 8"):
        pictures = re.findall(r'src="(.*?)"', rows[scale])[1:]  # the first is an early belief
        assert [petal_colour(read(p)) for p in pictures] == ["yellow"] * 6
    unprompted = re.findall(r'src="(.*?)"', rows["scale 0"])[1:]
    assert {petal_colour(read(p)) for p in unprompted} != {"yellow"}


def test_page_of_a_trained_pipeline_shows_latents(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    path = explain(tmp_path / "explained", str(tmp_path / "model"), "a <red> flower")
    assert path == tmp_path / "explained" / "index.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.headings == HEADINGS
    assert "cosine, latent" in text
    assert "a &lt;red&gt; flower" in text and "<red>" not in text and "&amp;lt;" not in text
    assert {read(p).size for p in page.pictures if p not in page.links} >= {(8, 8), (16, 16)}


def test_prompt_that_no_flower_answers_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(UserError, match=r"'a green cat'.* 'a red flower'"):
        explain(tmp_path, prompt="a green cat")


def test_curves_leave_out_what_is_beyond_the_frame():
    series = Series("s", [-1, 0, 1, 2, 3], [0.5, 0, float("nan"), 1, 9])
    svg = chart([series], Frame((0, 3), (0, 1)), "", "")
    curve = re.search(r'class="curve"[^>]* d="([^"]*)"', svg).group(1)
    assert curve.count("M") == 2 and "L" not in curve  # two points, each alone
