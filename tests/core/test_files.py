import json
import os
import signal
import subprocess
import sys

import pytest

from ldm.core.files import sha256, sweep, write_json, write_text, written, written_folder

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


def test_a_file_is_there_once_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.png"
    with written(path) as file:
        assert file.suffix == ".png"
        file.write_bytes(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc" and list(path.parent.iterdir()) == [path]
    assert sha256(path) == ABC


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    path, folder = tmp_path / "a.txt", tmp_path / "folder"
    write_text(path, "before")
    folder.mkdir()
    write_text(folder / "kept", "before")
    with pytest.raises(OSError, match="full"), written(path) as file:
        file.write_text("half")
        raise OSError("full")
    with pytest.raises(OSError, match="full"), written_folder(folder) as new:
        (new / "half").touch()
        raise OSError("full")
    assert path.read_text() == "before" and (folder / "kept").read_text() == "before"
    assert sorted(tmp_path.iterdir()) == [path, folder]


def test_a_folder_replaces_the_one_that_was_there(tmp_path):
    for name in ("first", "second"):
        with written_folder(tmp_path / "x") as new:
            (new / "deep").mkdir()
            write_text(new / "deep" / name, name)
    assert [p.name for p in (tmp_path / "x" / "deep").iterdir()] == ["second"]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_json_never_holds_what_json_lacks(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1.5}


def test_what_a_killed_writer_left_is_swept(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from ldm.core.files import written\n"
        "with written(Path(sys.argv[1])) as file:\n"
        "    file.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.txt")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    (tmp_path / "kept").touch()
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["kept"]
