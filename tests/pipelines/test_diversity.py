"""Samples that are one picture again have no diversity; samples drawn from photos have theirs."""

from math import gamma

import pytest
import torch
from small_evaluation import AMOUNTS, features_in, subject

from ldm.evaluation.features.names import load_extractor
from ldm.evaluation.records import jsonable
from pipelines.evaluation.parts import diversity
from pipelines.evaluation.parts.diversity import Diversity, among, by_caption, within
from pipelines.evaluation.parts.part import apart
from pipelines.evaluation.subject.job import Job


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_identical_samples_have_no_diversity():
    found = within(list(normal(20, 1, 6).expand(20, 8, 6)))
    assert found.value == pytest.approx(0, abs=1e-6) and found.n == 20


def test_samples_drawn_from_the_photos_have_the_photos_figure():
    photos = normal(1500, 6) * torch.arange(1.0, 7)
    draws = torch.randperm(1500, generator=torch.Generator().manual_seed(1))[:400]
    made, real = within(photos[draws].split(8)), among(photos)
    assert abs(apart(made, real)) < 3 and made.standard_error < 0.05 * made.value
    closer = within((0.8 * photos[draws]).split(8))
    assert closer.value == pytest.approx(0.8 * made.value) and apart(closer, real) < -3


def test_the_figure_of_a_gaussian_is_its_closed_form():
    exact = 2 * gamma(3.5) / gamma(3)  # E|x - y| of standard normals in 6 dimensions
    for found in (within(normal(400, 8, 6)), among(normal(1500, 6))):
        assert abs(found.value - exact) < 3 * found.standard_error < 0.1
    # the figure's error over draws of whole sets, beside what one set says of it
    sets = torch.tensor([among(x, resamples=0).value for x in normal(60, 100, 6)])
    said = sum(among(x).standard_error for x in normal(60, 100, 6)[:10]) / 10
    assert 0.6 < said / float(sets.std()) < 1.6


def test_captions_of_one_photo_have_no_pairs():
    groups = by_caption(["a", "b", "a", "c", "a"], torch.arange(10.0).view(5, 2))
    assert [group.tolist() for group in groups] == [[[0, 1], [4, 5], [8, 9]]]
    none = within(by_caption(["a", "b"], torch.ones(2, 2)), unit="caption of two photos")
    assert not none.defined and "there is no caption of two photos" in none.note


def test_the_part_measures_a_model_and_is_told_like_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(diversity, "PROMPTS", 3)
    monkeypatch.setattr(diversity, "EACH", 4)
    who = subject(folder=tmp_path)
    job = Job(who, load_extractor(features_in(tmp_path / "features")), AMOUNTS)
    found = Diversity.run(job)
    assert Diversity.cost(job).samples == 12 and found.samples.n == 3 and found.any_photos.n == 60
    assert found.samples.value > 0 and found.any_photos.value > 0
    assert jsonable(Diversity.read(jsonable(found))) == jsonable(found)
    assert "4 samples of a prompt" in found.text() and "any two photos" in found.section(None)
    torch.nn.init.zeros_(who.pipe.vae.decoder.conv_out.weight)  # whatever the seed, one picture
    collapsed = Diversity.run(job)
    assert collapsed.samples.value == pytest.approx(0, abs=1e-6)
    assert collapsed.any_photos == found.any_photos
