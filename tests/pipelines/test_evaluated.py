"""Which images and captions an evaluation takes, of a run's own data and of other data."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import tiny_pipeline
from small_evaluation import DATA, small, subject, trained_run

from ldm.config import load_config, save_config
from ldm.data.drawn import draw, truth
from ldm.data.example import Subset
from ldm.data.pictures.bad import BadImage
from ldm.data.source import open_source
from ldm.evaluation.sweep import Setting
from pipelines.evaluation.subject.evaluated import open_evaluated


@pytest.fixture(scope="module", autouse=True)
def smaller():
    with small():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("runs"))


class OneBad(Subset):
    """The same, but its third image cannot be read."""

    def image(self, index):
        if index == 2:
            raise BadImage("third", "it is torn")
        return super().image(index)


def by_caption(split):
    """The drawn flowers, sorted as folders of classes are."""
    source = open_source(DATA, split)
    return Subset(source, sorted(range(len(source)), key=source.captions))


def test_some_examples_are_of_all_classes_and_keep_their_captions(tmp_path):
    sources = {split: by_caption(split) for split in ("train", "validation")}
    who = replace(subject(folder=tmp_path), sources=sources)
    n = len(sources["train"])
    everything, captions = who.examples("train", n)
    assert captions == who.captions("train")

    some, named = who.examples("train", 12)
    apart = (some[:, None] - everything).flatten(2).norm(dim=-1)
    places = apart.argmin(1).tolist()
    assert apart.min(1).values.max() < 1e-4 and len(set(places)) == 12
    assert named == [captions[i] for i in places]
    assert min(places) < n / 3 and max(places) > 2 * n / 3

    n = len(sources["validation"])
    prompts = who.prompts(n + 6)
    assert prompts[:n] == who.captions("validation")
    assert len(prompts) == n + 6 and prompts[n:] != prompts[:6]

    broken = OneBad(sources["train"].source, sources["train"].indices)
    rest, named = replace(who, sources=sources | {"train": broken}).examples("train", 60)
    assert named == captions[:2] + captions[3:]
    torch.testing.assert_close(rest, torch.cat([everything[:2], everything[3:]]))


@pytest.fixture
def photos(tmp_path):
    """An imagefolder of two classes with a column of captions that has an unusual name."""
    lines = []
    for i in range(80):
        name = f"{('daisy', 'rose')[i % 2]}/{i:02d}.png"
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        draw(truth(i), 16).save(tmp_path / "photos" / name)
        lines.append(json.dumps({"file_name": name, "said": f"number {i}"}) + "\n")
    (tmp_path / "photos" / "metadata.jsonl").write_text("".join(lines))
    return tmp_path / "photos"


def test_other_data_replaces_all_of_a_runs_own(run, photos, tmp_path):
    config = load_config(run / "config.yaml")
    other = replace(config.data, validation="drawn", caption="text", holdout=0.25)
    shutil.copytree(run, tmp_path / "run")
    save_config(replace(config, data=other), tmp_path / "run" / "config.yaml")
    who = open_evaluated(str(tmp_path / "run"), str(photos), tmp_path / "out", caption="said")
    assert who.data == "photos"
    assert [len(who.sources[split]) for split in ("train", "validation")] == [60, 20]
    for split in ("train", "validation"):
        assert all(text.startswith("number ") for text in who.captions(split))


@pytest.mark.parametrize("kind, words", [("none", {""}), ("class", {"daisy", "rose"})])
def test_a_pipeline_is_asked_what_it_can_be_asked(photos, tmp_path, kind, words):
    tiny_pipeline(kind).save_pretrained(tmp_path / "pipeline")
    (photos / "metadata.jsonl").unlink()
    who = open_evaluated(str(tmp_path / "pipeline"), str(photos), tmp_path / "out")
    prompts = who.prompts(2)
    assert set(who.captions("train")) == words
    assert who.sample(prompts, Setting("ddim", 1, 3.0)).shape == (2, 3, 16, 16)
