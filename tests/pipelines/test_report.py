"""The report of a tiny run: whole, self-contained, and legible to a browser where there is one."""

import json
import re
import shutil
from dataclasses import replace
from html import unescape

import pytest
from browsed import inspect
from conftest import write_run
from PIL import Image
from small_evaluation import evaluated_run

from ldm.config import load_config, save_config
from ldm.core.errors import UserError
from ldm.evaluation.measurements import Measurement
from ldm.evaluation.noise_levels import Curve
from pipelines.commands.main import main
from pipelines.evaluation.parts.levels import Levels, Spaces
from pipelines.evaluation.parts.memorisation import Memorisation
from pipelines.evaluation.parts.metrics import Metrics
from pipelines.evaluation.results import Reported, Results
from pipelines.report.browser import browser, screenshot
from pipelines.report.compare import best_of
from pipelines.report.report import compare, report
from pipelines.report.sections import LAST, ORDER
from tests.damage import DAMAGES

needs_browser = pytest.mark.skipif(browser() is None, reason="no Chromium: apt install chromium")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return evaluated_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(run):
    return report(run)


@pytest.fixture(scope="module")
def comparison(run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "second"
    shutil.copytree(run, other)
    config = load_config(other / "config.yaml")
    train = replace(config.train, learning_rate=0.5)
    config = replace(config, name="second", train=train, unet={"layers_per_block": 3})
    save_config(config, other / "config.yaml")
    return compare([run, other], other.parent / "compare.html")


def test_every_section_has_something_to_show(page):
    titles = re.findall(r'<h2 id="[^"]*">([^<]*)</h2>', page.read_text())
    assert titles == [*ORDER, *LAST]


def test_nothing_is_fetched(page, comparison):
    for html in (page.read_text(), comparison.read_text()):
        assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html)
        assert "http://" not in html.replace("http://www.w3.org", "") and "@import" not in html


def test_figures_are_those_of_the_results(page, run):
    found = json.loads((run / "evaluation" / "results.json").read_text())
    text = unescape(re.sub(r"<[^>]*>", " ", page.read_text()))
    for row in found["metrics"]["samples"]:
        assert f"{row['value']:.4g} " in text, row["name"]
    assert f"{found['sweep']['best']}" in text
    assert found["features"] in text


def test_a_run_that_was_not_evaluated_has_a_report_too(tmp_path):
    run = write_run(tmp_path)
    html = report(run, tmp_path / "page.html").read_text()
    assert "ldm evaluate tiny" in html and "Training" in html and "Quality</h2>" not in html
    for metrics in run.glob("*/metrics.jsonl"):
        metrics.unlink()
    with pytest.raises(UserError, match=r"recorded nothing yet: there is no metrics\.jsonl"):
        report(run)


@pytest.mark.filterwarnings("ignore:.*are damaged")
def test_figures_of_which_no_line_can_be_read_are_said_to_be_so(tmp_path, capsys):
    run = write_run(tmp_path)
    for metrics in run.glob("*/metrics.jsonl"):
        metrics.write_text("{cut\n")
    told = r"no\s+line\s+of\s+.*metrics\.jsonl\s+can\s+be\s+read"
    with pytest.raises(UserError, match=told):
        report(run)
    assert main(["inspect", str(run)]) == 0
    assert re.search(told, capsys.readouterr().out)


def test_a_comparison_names_what_differs_and_no_more(comparison):
    html = comparison.read_text()
    differing = html[html.index("What differs") : html.index("<h2>Samples")]
    named = re.findall(r"<code>(.*?)</code>", differing)
    assert sorted(named) == ["train.learning_rate", "unet.layers_per_block"]
    assert "0.5" in differing and "<b>" not in html  # the same results: none is better


@pytest.mark.parametrize(
    "name, by_value", [("fd", -1), ("cmmd", -1), ("kid", -1), ("recall", 1), ("precision", 1)]
)
def test_the_best_is_beyond_every_interval_and_not_for_having_more_samples(name, by_value):
    worse = Measurement(name, 0.5, 0.01, 500)
    better = replace(worse, value=0.5 + 0.2 * by_value)
    assert best_of([worse, better]) is better
    assert best_of([worse, replace(better, standard_error=0.2)]) is None
    more = replace(better, n=5000)
    assert best_of([worse, more]) is (more if name in ("kid", "precision") else None)


def test_comparing_one_run_or_two_of_a_name_is_refused(run):
    with pytest.raises(UserError, match="at least two"):
        compare([run])
    with pytest.raises(UserError, match="told apart"):
        compare([run, run])


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280], ids=["narrow", "wide"])
def test_a_browser_shows_the_report(page, width, dark):
    seen = inspect(page, width, dark)
    assert seen["complaints"] == []
    assert seen["needed"] <= seen["width"] <= width, "the page scrolls sideways"
    assert len(seen["pictures"]) >= 4 and len(seen["charts"]) >= 10
    for alt, w, h in seen["pictures"]:
        assert alt and w >= 8 and h >= 8
    assert all(200 < w <= width for w in seen["charts"])
    assert contrast(seen["ink"], seen["background"]) > 7  # WCAG's AAA
    assert (luminance(seen["background"]) < 0.1) == dark


@needs_browser
def test_a_browser_shows_the_comparison(comparison, tmp_path):
    assert inspect(comparison, 360)["complaints"] == []
    picture = screenshot(comparison, tmp_path / "page.jpg", 1000, 800)
    with Image.open(picture) as opened:
        assert opened.format == "JPEG" and opened.size == (1000, 800)
        assert len(opened.getcolors(1 << 20)) > 100  # something is drawn


@needs_browser
def test_the_command_writes_the_page_and_its_picture(run, tmp_path, capsys):
    page, picture = tmp_path / "page.html", tmp_path / "docs" / "page.png"
    assert main(["report", str(run), "--out", str(page), "--screenshot", str(picture)]) == 0
    assert capsys.readouterr().out.split() == [str(page), str(picture)]
    assert picture.is_file() and main(["compare", str(run)]) == 2


@needs_browser
def test_the_browser_finds_fault_with_a_faulty_page(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<html><head></head><body><img src='none.png' alt='x'><div style='width: 900px'>x</div>"
        "<script>missing()</script></body></html>"
    )
    seen = inspect(page, 400)
    assert len(seen["complaints"]) >= 2
    assert seen["pictures"] == [["x", 0, 0]] and seen["needed"] > seen["width"]


def luminance(colour):
    channels = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def row(name, value, error):
    return Measurement(name, value, error, 500)


def spaces(total):
    mean, t = [total * 0.5, total * 1.5], [0.25, 0.75]
    return Spaces(*[Curve("output", 9, t, mean, [0, 0], [[0, 1]] * 2, total, 0.001)] * 3)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Levels(spaces(0.30), spaces(0.20)), ["knows its training"]),
        (Levels(spaces(0.201), spaces(0.20)), ["no overfitting"]),
        (Levels(spaces(0.201), spaces(0.20), spaces(0.3)), ["no overfitting", "lowers .* 33.0%"]),
        (
            Metrics(
                60,
                [row("recall", 0.5, 0.01), row("precision", 0.9, 0.01)],
                [row("recall", 0.8, 0.02), row("precision", 0.89, 0.02)],
            ),
            ["variety is lost"],
        ),
        (
            Memorisation(row("copied", 0.9, 0.01), row("copied", 0.5, 0.02), [], [], [], [], 9, 9),
            ["more than chance"],
        ),
    ],
)
def test_findings_say_what_the_figures_say(part, said):
    texts = list(part.sentences())
    assert len(texts) == len(said) and all(map(re.search, said, texts))


@pytest.fixture(scope="module")
def half(run, tmp_path_factory):
    """A run that is half-way, and evaluated."""
    folder = write_run(tmp_path_factory.mktemp("half"))
    (folder / "evaluation").mkdir()
    shutil.copy(run / "evaluation" / "results.json", folder / "evaluation")
    return folder


# Every file and every damage is tried in tests/faults.
@pytest.mark.parametrize(
    ("file", "damage"),
    [("config.yaml", "flipped"), ("ldm/metrics.jsonl", "flipped"), ("ldm/metrics.jsonl", "empty"),
     ("ldm/samples/step_0000020.png", "cut"), ("pipeline/ldm.json", "flipped")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*are damaged")
def test_a_run_with_a_damaged_file_is_reported_or_refused(half, tmp_path, damage, file, capsys):
    folder = shutil.copytree(half, tmp_path / "tiny")
    DAMAGES[damage](folder / file)
    samples = folder / "ldm" / "samples"
    shutil.copy(samples / "step_0000010.png", samples / "step_best (copy).png")
    for command in ("inspect", "report"):
        status, said = main([command, str(folder)]), capsys.readouterr().err
        assert status == 0 or (status == 2 and said.startswith("error: "))


@pytest.mark.parametrize("damage", DAMAGES)
def test_results_that_are_damaged_are_refused(half, tmp_path, damage):
    folder = shutil.copytree(half, tmp_path / "tiny")
    DAMAGES[damage](folder / "evaluation" / "results.json")
    if damage == "deleted":
        assert Reported.read(folder).results is None
    else:
        with pytest.raises(UserError, match=r"results\.json is damaged .*: remove it, or evaluate"):
            Reported.read(folder)


def test_results_of_another_shape_are_refused(run, tmp_path):
    found = json.loads((run / "evaluation" / "results.json").read_text())
    del found["sha256"]
    for wrong in (found | {"levels": []}, found | {"metrics": {"samples": 3}}, {"model": "x"}):
        (tmp_path / "results.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"results\.json is damaged"):
            Results.read(tmp_path)


def test_figures_that_are_not_finite_are_reported(half, tmp_path):
    folder = shutil.copytree(half, tmp_path / "tiny")
    metrics = folder / "ldm" / "metrics.jsonl"
    bad = [{"step": 30, "loss": float("nan"), "gradient_norm": float("inf")}]
    text = metrics.read_text().rsplit("\n", 1)[0]
    metrics.write_text(text + "\n" + "".join(json.dumps(line) + "\n" for line in bad))
    assert main(["inspect", str(folder)]) == main(["report", str(folder)]) == 0
