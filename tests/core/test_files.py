import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldm.core import files
from ldm.core.errors import NotWritten
from ldm.core.files import (
    append,
    published,
    refuse_unwritable,
    sha256,
    sweep,
    write_json,
    write_text,
    written,
    written_folder,
)

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
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(NotWritten, match=r"a\.txt cannot .* No space left .* free"):  # noqa: SIM117
        with written(path) as file:
            file.write_text("half")
            raise full
    for writer in (written_folder(folder), published(folder, "kept")):
        with pytest.raises(NotWritten, match="folder cannot be written"), writer as new:
            write_text(new / "half", "half")
            raise full
    with pytest.raises(KeyError), written(path) as file:
        raise KeyError("a mistake in the block is nobody else's")
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
    run = tmp_path / "run"
    ended = subprocess.run([sys.executable, "-c", script, str(run / "a.txt")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(os.listdir(run)) == 1
    for name in (".writing_by_hand", "kept"):
        (run / name).touch()
    with written(run / "mine"):  # under way, and so is what another process of this machine writes
        alive, absent = (f".writing_{files._HOST}_{n}_0" for n in (os.getppid(), 2**22 + 1))
        elsewhere = f".writing_00000000_{os.getpid()}_0"
        for name in (alive, elsewhere, absent):
            (run / name).mkdir()
        sweep(tmp_path, deep=True)
        (here,) = files._under_way
        kept = {alive, elsewhere, here.name, ".writing_by_hand", "kept"}
        assert set(os.listdir(run)) == kept
        (here / "mine").touch()
    os.utime(run / elsewhere, (time.time() - 2 * 24 * 3600,) * 2)
    (run / alive).rmdir()
    sweep(run)
    assert set(os.listdir(run)) == {"mine", ".writing_by_hand", "kept"}


def test_whoever_writes_in_a_folder_sweeps_it(tmp_path):
    left_over = tmp_path / f".writing_{files._HOST}_{2**22 + 1}_7"
    left_over.mkdir()
    (left_over / ".tmpAbCdEf").touch()  # safetensors' own temporary file
    (tmp_path / f".writing_{2**22 + 1}_b.png").touch()  # an older version's
    write_text(tmp_path / "a", "")
    assert os.listdir(tmp_path) == ["a"]


def test_a_link_is_written_through_and_a_device_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "text"
    write_text(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()


def test_files_can_be_read_by_whom_the_umask_says(tmp_path):
    with written(tmp_path / "a") as file:
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    (tmp_path / "plain").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_published_folder_keeps_others_files_and_loses_ours_that_are_stale(tmp_path):
    for name in ("README.md", "index.json", "old/weights", "part/weights"):
        write_text(tmp_path / name, "old")
    with published(tmp_path, index="index.json", ours=["old/weights", "part/weights"]) as new:
        write_text(new / "part" / "weights", "new")
        write_text(new / "index.json", "new")
        assert (tmp_path / "index.json").read_text() == "old"  # until all is ready
    found = {str(p.relative_to(tmp_path)): p for p in tmp_path.rglob("*") if p.is_file()}
    told = {name: path.read_text() for name, path in found.items()}
    assert told == {"README.md": "old", "index.json": "new", "part/weights": "new"}


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "lines"
    append(path, "first\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(NotWritten, match="File too large; raise the limit"):
            append(path, "the second\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "first\n"


@pytest.mark.parametrize("place", ["file/inside/a.png", "folder", f"{'n' * 256}.png"])
def test_a_place_that_takes_no_file_is_refused_before_the_work(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotWritten, match="cannot be written"):
        refuse_unwritable(tmp_path / place)
    refuse_unwritable(tmp_path / "new" / "folder" / "a.png")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
