"""How a command ends on what a user or the system does: in one sentence, and with which status."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from ldm.core.errors import UserError, exits_with_a_sentence, refusal, writing
from ldm.training.checkpoint import resumable, save_checkpoint
from pipelines.commands.main import main

ROOT = Path(__file__).parents[1]


def ends(capsys, error):
    @exits_with_a_sentence
    def command():
        raise error

    status = command()
    return status, capsys.readouterr().err


def chained(inner):
    error = RuntimeError("a library's own words")
    error.__cause__ = inner
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/a/b"),
        chained(OSError(errno.EDQUOT, "Disk quota exceeded")),
        PermissionError(errno.EACCES, "Permission denied", "/a/b"),
        OSError(errno.EROFS, "Read-only file system"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("Caught OSError in DataLoader worker\nOSError: [Errno 28] No space left"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/b"),
        UserError("data.source is empty"),
    ],
)
def test_what_the_system_refuses_ends_in_one_sentence(capsys, error):
    status, said = ends(capsys, error)
    assert status == 2 and said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.parametrize("sides", [(10**12, 1000), (2**62, 2**62)])
def test_memory_that_is_not_there_ends_in_a_sentence_with_the_way_out(capsys, sides):
    with pytest.raises(RuntimeError) as caught:
        torch.empty(sides)
    status, said = ends(capsys, caught.value)
    assert status == 2 and said.count("\n") == 1
    assert said.startswith("error: there is not enough memory") and "smaller batches" in said


def test_a_mistake_of_ours_keeps_its_traceback(capsys):
    with pytest.raises(ZeroDivisionError):
        ends(capsys, ZeroDivisionError())


def test_an_interrupt_ends_in_one_word(capsys):
    assert ends(capsys, KeyboardInterrupt()) == (130, "interrupted\n")


def test_a_reader_who_has_seen_enough_is_told_nothing(capsys):
    assert ends(capsys, BrokenPipeError(errno.EPIPE, "Broken pipe")) == (141, "")


def test_errors_of_writing_name_the_place_and_others_pass():
    with pytest.raises(UserError, match=r"^x/y cannot be written: No space left .*; free some"):  # noqa: SIM117
        with writing("x/y"), writing("x/y/.writing_0"):
            raise OSError(errno.ENOSPC, "")
    with pytest.raises(UserError, match="cannot be written: encoder error -2"), writing("x"):
        raise OSError("encoder error -2 when writing image file")  # Pillow's, without a number
    with pytest.raises(KeyError), writing("x"):
        raise KeyError("y")
    assert refusal(KeyError("y")) is None


def test_the_last_whole_checkpoint_is_named_where_training_cannot_write(tmp_path):
    with pytest.raises(UserError, match="no checkpoint is there yet"), resumable(tmp_path):
        raise OSError(errno.ENOSPC, "")
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {}, {}, keep=2)
    (tmp_path / "step_0000002" / "state.json").unlink()
    with pytest.raises(UserError, match=r"goes on from .*step_0000001, which is whole"):  # noqa: SIM117
        with resumable(tmp_path), writing("z"):
            raise OSError(errno.EROFS, "")
    with pytest.raises(UserError, match=r"another process .* goes on from"), resumable(tmp_path):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer")
    with pytest.raises(RuntimeError), resumable(tmp_path):
        raise RuntimeError("a mistake")
    with pytest.raises(UserError, match=r"^no$"), resumable(tmp_path):
        raise UserError("no")


def test_a_librarys_thread_that_cannot_write_prints_no_traceback(capsys):
    def fails():
        raise OSError(errno.ENOSPC, "No space left on device")

    @exits_with_a_sentence
    def command():
        thread = threading.Thread(target=fails)
        thread.start()
        thread.join()

    before = threading.excepthook
    try:
        assert command() == 0
    finally:
        threading.excepthook = before
    assert capsys.readouterr().err == ""


WORDS = """
import sys
from ldm.core.errors import exits_with_a_sentence
@exits_with_a_sentence
def main():
    for _ in range(100_000):
        print("words")
raise SystemExit(main())
"""


def command(script, **streams):
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True, **streams
    )


def test_a_pipe_that_closes_early_is_quiet():
    ours, theirs = os.pipe()
    os.close(ours)
    done = command(WORDS, stdout=theirs)
    os.close(theirs)
    assert done.returncode == 141 and done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_words_that_find_no_place_end_in_a_sentence():
    with open("/dev/full", "w") as full:
        done = command(WORDS, stdout=full)
    assert done.returncode == 2 and done.stderr.startswith("error: No space left on device")
    assert done.stderr.count("\n") == 1


def test_an_interrupt_while_a_command_imports_ends_in_one_word(tmp_path):
    (tmp_path / "torch.py").write_text(
        "print('importing', flush=True)\nimport time\ntime.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, "train_ldm.py", "--config", "none.yaml"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "interrupted\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a rose", "--model", "absent", "--out", "file/picture.png"],
        ["generate", "a rose", "--model", "absent", "--out", "file/pictures"],
        ["explain", "--model", "absent", "--out", "file/explained"],
        ["data", "data.source=absent", "--out", "file/data.png"],
        ["evaluate", "absent", "--out", "file/evaluation"],
    ],
)
def test_a_place_that_takes_no_file_is_told_before_all_else(tmp_path, capsys, arguments):
    (tmp_path / "file").touch()
    assert main([a.replace("file/", f"{tmp_path}/file/") for a in arguments]) == 2
    assert f"{tmp_path}/file" in (said := capsys.readouterr().err)
    assert "cannot be written: Not a directory" in said
