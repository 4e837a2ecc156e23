import json

from ldm.evaluation.measurements import Measurement
from ldm.evaluation.sweep import PRESETS, Point, Setting, best, cheapest_as_good, settings

OWN = Setting("ddim", 30, 2.0)


def point(steps, evaluations, fd):
    figures = (Measurement("fd", fd, 0.1, 100), Measurement("adherence", 0.9, 0.01, 100))
    return Point(Setting("ddim", steps, 3.0), evaluations, figures)


def test_the_cheapest_setting_within_one_percent_of_the_best():
    points = [point(5, 10, 12.0), point(10, 20, 10.09), point(20, 40, 10.11), point(50, 100, 10.0)]
    assert best(points).setting.steps == 50
    assert cheapest_as_good(points).setting.steps == 10
    assert cheapest_as_good(points, within=0.5).setting.steps == 5


def test_no_setting_is_measured_twice():
    for preset in PRESETS:
        chosen = settings(preset, OWN)  # which is one of the guidance row's own
        assert len(set(chosen)) == len(chosen)
    assert Setting("ddpm", 1000, 2.0) in settings("full", OWN)
    assert Setting("ddim", 50, 2.0) in settings("full", OWN)
    assert settings("none", OWN) == []


def test_a_point_says_everything_as_json():
    said = point(5, 10, 12.0).summary()
    assert Point.read(said) == point(5, 10, 12.0)
    assert said["sampler"] == "ddim" and said["evaluations"] == 10 and "interval" not in said
    assert [f["name"] for f in said["figures"]] == ["fd", "adherence"]


def test_a_sweep_keeps_the_models_interval_of_guidance_and_says_it():
    own = Setting("ddim", 30, 2.0, (0.5, float("inf")))
    assert {s.interval for s in settings("full", own)} == {own.interval}
    assert str(own) == "ddim 30 steps, guidance 2 in σ/α 0.5 to inf"
    assert json.loads(json.dumps(own.summary(), allow_nan=False))["interval"] == [0.5, None]
    assert Setting.read(own.summary()) == own
