"""Runs on a handful of images, and runs that have diverged: evaluated, shown and compared."""

import json
import math
import re
import shutil
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from small_evaluation import AMOUNTS, DATA, features_in, small, trained_run

from ldm.config import load_config, save_config
from pipelines.evaluation.evaluate import evaluate
from pipelines.report.report import compare, report
from pipelines.runs.record import RunRecord, draw_curves

# what prints or draws a figure that is not defined
NOT_A_FIGURE = re.compile(r"\bnan\b|± ?–|\binf\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return features_in(tmp_path_factory.mktemp("features"))


def with_images(trained, folder, size):
    """The run on `size` training images and one that is held out."""
    shutil.copytree(trained, folder)
    config = load_config(folder / "config.yaml")
    data = replace(DATA, size=size, holdout=0.01)
    save_config(replace(config, name=folder.name, data=data), folder / "config.yaml")
    return folder


def strict(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def as_before(path):
    """Results as older versions wrote them: with NaN, and without a sum."""
    found = strict(path.read_text())
    del found["sha256"]
    path.write_text(json.dumps(found).replace("null", "NaN"))


SLOW = pytest.mark.slow


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=SLOW), pytest.param(3, marks=SLOW)])
def test_one_held_out_image_has_figures_and_no_errors(size, trained, features, tmp_path, capsys):
    run = with_images(trained, tmp_path / "few", size)
    parts = ["metrics", "adherence", "levels", "likelihood", "memorisation", "ema"]
    with small():
        evaluate(str(run), AMOUNTS, features, parts=parts, seed=np.int64(3))
        found = strict((run / "evaluation" / "results.json").read_text())
        assert found["levels"]["held_out"]["output"]["total_standard_error"] is None
        assert found["likelihood"]["flow"]["low"] is None and "note" in found["metrics"]
        told = found["missing"].get("memorisation", "")
        assert ("are all one image" in told) == (size == 1) and found["seed"] == 3
        (row,) = found["ema"]["lengths"]
        assert row["loss"] and row["loss_standard_error"] is None
        # NaN, which older versions wrote, is read; the same by Python's seed beside what was there
        path = run / "evaluation" / "results.json"
        as_before(path)
        evaluate(str(run), AMOUNTS, features, parts=["adherence"], seed=3)
    assert strict(path.read_text()) == found
    assert not NOT_A_FIGURE.search(capsys.readouterr().out)
    as_before(path)
    page = report(run).read_text()
    assert not NOT_A_FIGURE.search(unescape(re.sub(r"<style>.*?</style>|data:[^\"]*", "", page)))


@pytest.mark.parametrize(
    "value", [math.nan, pytest.param(math.inf, marks=SLOW), pytest.param(-1.0, marks=SLOW)]
)
def test_a_run_that_has_diverged_is_drawn_reported_and_compared(value, trained, tmp_path):
    runs = []
    for name, kept in (("some", 1), ("all", 0)):
        run = tmp_path / name
        (run / "ldm").mkdir(parents=True)
        config = load_config(trained / "config.yaml")
        save_config(replace(config, name=name), run / "config.yaml")
        metrics = run / "ldm" / "metrics.jsonl"
        records = RunRecord.read(trained).metrics["ldm"]
        wild = [{k: value if type(v) is float else v for k, v in r.items()} for r in records]
        wild = records[:kept] + wild[kept:]
        metrics.write_text("".join(json.dumps(r) + "\n" for r in wild))
        runs.append(run)
        assert report(run).is_file()
    assert draw_curves(RunRecord.read(run), tmp_path / "curves.png").is_file()
    page = compare(runs, tmp_path / "compare.html").read_text()
    assert not re.search(r'[ "]nan|Infinity', re.sub(r"data:[^\"]*", "", page))
