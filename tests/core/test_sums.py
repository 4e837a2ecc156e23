"""Files that tell whether they are still what was written."""

import json

import pytest

from ldm.core.sums import MANIFEST, damage, manifest_of, read_sealed, write_sealed


def test_a_sealed_file_gives_back_what_it_was_given(tmp_path):
    value = {"mean": [0.1, 1e-300], "names": ["ä", None], "table": {"a": (1, 2)}}
    write_sealed(tmp_path / "x.json", value)
    assert read_sealed(tmp_path / "x.json") == json.loads(json.dumps(value))


def test_a_flipped_bit_in_any_byte_of_a_sealed_file_is_noticed_or_changes_nothing(tmp_path):
    path, value = tmp_path / "x.json", {"mean": [0.25, 1.5]}
    write_sealed(path, value)
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = read_sealed(path)
        except ValueError:
            continue
        assert {k: v for k, v in found.items() if k in value} == value


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", '{"a": 1, "sha256": "b"}'])
def test_what_is_no_sealed_file_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError):
        read_sealed(tmp_path / "x.json")


def test_a_file_of_an_older_version_is_taken_at_its_word(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert read_sealed(tmp_path / "x.json") == {"a": 1}


def test_a_folder_tells_which_of_its_files_is_not_what_was_written(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert damage(tmp_path) == "its manifest is missing or unreadable"
    (tmp_path / MANIFEST).write_text(json.dumps(manifest_of(tmp_path)))
    (tmp_path / ".DS_Store").write_text("somebody else's")
    assert damage(tmp_path) is None
    (tmp_path / "b").write_text("c")
    assert damage(tmp_path) == "b does not match its SHA-256"
    (tmp_path / "b").unlink()
    assert damage(tmp_path) == "b is missing"


@pytest.mark.parametrize("manifest", ["{}", "[]", "null", '{"a": 1}', '{"../a": "b"}', "\xff"])
def test_a_manifest_that_is_none_is_damage(tmp_path, manifest):
    (tmp_path / "a").write_text("a")
    (tmp_path / MANIFEST).write_text(manifest, "latin-1")
    assert damage(tmp_path) == "its manifest is missing or unreadable"
