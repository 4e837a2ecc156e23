import json

import pytest
from pictures import config, rows

from ldm.core.errors import UserError
from ldm.data import quarantine
from ldm.data.drawn import DrawnFlowers
from ldm.data.quarantine import checked
from ldm.data.source import open_source
from tests.damage import DAMAGES


def photos(folder, count, broken):
    root = folder(count, rows(count, text=str))
    for i in broken:
        path = root / "a" / f"{i:03d}.png"
        path.write_bytes(path.read_bytes()[:60])
    return open_source(config(root, holdout=0.0))


def test_bad_images_are_skipped_named_and_counted(folder, tmp_path):
    source = photos(folder, 200, [0, 150])
    sound = checked(source, tmp_path / "cache")
    assert len(sound) == 198
    assert [sound.name(0), sound.name(149), sound.name(197)] == [
        "a/001.png", "a/151.png", "a/199.png"
    ]  # fmt: skip
    assert sound[149].captions == ("151",)
    lines = (tmp_path / "cache" / "quarantine.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [entry["name"] for entry in found] == ["a/000.png", "a/150.png"]
    assert all("cannot be decoded" in entry["reason"] for entry in found)
    assert sound.notes[-1].startswith("2 of 200 images cannot be used and are left out")


def test_every_sound_image_can_be_read(folder, tmp_path):
    sound = checked(photos(folder, 120, [7]), tmp_path / "cache")
    assert [sound[i].name for i in range(len(sound))] == [sound.name(i) for i in range(119)]


def test_over_one_percent_stops_and_names_the_first(folder, tmp_path):
    source = photos(folder, 200, [3, 5, 8])
    with pytest.raises(UserError, match=r"3 of 200 images .* over 1%.* a/003\.png \(cannot"):
        checked(source, tmp_path / "cache")
    assert len((tmp_path / "cache" / "quarantine.jsonl").read_text().splitlines()) == 3


def test_one_percent_exactly_goes_on(folder, tmp_path):
    assert len(checked(photos(folder, 100, [3]), tmp_path / "cache")) == 99


def test_in_a_small_set_a_single_bad_image_stops(folder, tmp_path):
    with pytest.raises(UserError, match=r"1 of 99 images .* repair or remove them"):
        checked(photos(folder, 99, [3]), tmp_path / "cache")


def test_sound_images_are_left_as_they_are(folder, tmp_path):
    source = photos(folder, 5, [])
    assert checked(source, tmp_path / "cache") is source
    assert (tmp_path / "cache" / "quarantine.jsonl").read_text() == ""


def test_the_result_is_remembered(folder, tmp_path, monkeypatch):
    source = photos(folder, 150, [4])
    first = checked(source, tmp_path / "cache")
    monkeypatch.setattr(quarantine, "_decode_all", None)
    again = checked(source, tmp_path / "cache")
    assert (len(again), again.fingerprint) == (149, first.fingerprint)


def test_a_changed_image_is_checked_again(folder, tmp_path):
    source = photos(folder, 150, [])
    assert len(checked(source, tmp_path / "cache")) == 150
    root = tmp_path / "images"
    (root / "a" / "004.png").write_bytes(b"broken")
    source = open_source(config(root, holdout=0.0))
    assert len(checked(source, tmp_path / "cache")) == 149


def test_changed_captions_are_no_reason_to_check_again(folder, tmp_path, monkeypatch):
    photos(folder, 3, [])
    root = tmp_path / "images"
    checked(open_source(config(root, holdout=0.0)), tmp_path / "cache")
    monkeypatch.setattr(quarantine, "_decode_all", None)
    checked(open_source(config(root, holdout=0.0), needs="nothing"), tmp_path / "cache")


@pytest.mark.parametrize("memory", ["", "{", "[]", '{"images": "x"}', '{"bad": []}'])
def test_a_broken_memory_is_made_again(folder, tmp_path, memory):
    source = photos(folder, 120, [4])
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "checked.json").write_text(memory)
    assert len(checked(source, tmp_path / "cache")) == 119


def test_drawn_flowers_need_no_check(tmp_path):
    source = DrawnFlowers(10, 16)
    assert checked(source, tmp_path / "cache") is source
    assert not (tmp_path / "cache").exists()


def test_images_that_are_listed_but_missing_are_quarantined(folder, tmp_path):
    root = folder(100, rows(101, text=str))
    sound = checked(open_source(config(root, holdout=0.0)), tmp_path / "cache")
    assert len(sound) == 100
    assert "there is no such file" in (tmp_path / "cache" / "quarantine.jsonl").read_text()


@pytest.mark.parametrize("file", ["checked.json", "quarantine.jsonl"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_again(folder, tmp_path, capsys, file, damage):
    source, cache = photos(folder, 120, [4]), tmp_path / "cache"
    assert len(checked(source, cache)) == 119
    before = {p.name: p.read_bytes() for p in cache.iterdir()}
    DAMAGES[damage](cache / file)
    assert len(checked(source, cache)) == 119
    assert {p.name: p.read_bytes() for p in cache.iterdir()} == before
    said = "checked.json is damaged" in capsys.readouterr().out
    assert said == (file == "checked.json" and damage != "deleted")


def test_another_list_than_was_written_is_not_believed(folder, tmp_path):
    source, cache = photos(folder, 120, [4]), tmp_path / "cache"
    checked(source, cache)
    text = (cache / "checked.json").read_text()
    (cache / "checked.json").write_text(text.replace("4,", "5,"))
    assert checked(source, cache).name(4) == "a/005.png"
