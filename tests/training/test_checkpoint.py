import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from ldm.core.errors import UserError
from ldm.core.sums import manifest_of
from ldm.training.checkpoint import damage, load_newest, newest_state, save_checkpoint


def tensors(value: float):
    return {"model": {"a": torch.full((3, 2), value), "b": torch.tensor([value])}}


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    saved = {"model": {"w": torch.randn(4, 3), "half": torch.randn(5).bfloat16()}}
    save_checkpoint(tmp_path, 7, saved, {"scaler": None})
    step, loaded, state = load_newest(tmp_path)
    assert step == 7 and state == {"scaler": None}
    for name, tensor in saved["model"].items():
        assert torch.equal(loaded["model"][name], tensor)
        assert loaded["model"][name].dtype == tensor.dtype


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        save_checkpoint(tmp_path, step, tensors(step), {}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_0000003", "step_0000010"]


def test_what_is_written_after_a_damaged_one_stays(tmp_path):
    save_checkpoint(tmp_path, 20, tensors(20), {})
    damaged = save_checkpoint(tmp_path, 30, tensors(30), {})
    (damaged / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="step_0000030"):
        assert load_newest(tmp_path).step == 20
    written = save_checkpoint(tmp_path, 25, tensors(25), {}, keep=1)
    assert [*tmp_path.iterdir()] == [written]
    assert load_newest(tmp_path).step == 25


@pytest.mark.parametrize("harm", ["flip a byte", "truncate", "remove a file", "remove manifest"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, harm):
    save_checkpoint(tmp_path, 1, tensors(1), {})
    newest = save_checkpoint(tmp_path, 2, tensors(2), {})
    file = newest / "model.safetensors"
    if harm == "flip a byte":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif harm == "truncate":
        os.truncate(file, 10)
    elif harm == "remove a file":
        file.unlink()
    else:
        (newest / "manifest.json").unlink()
    assert damage(newest)
    with pytest.warns(UserWarning, match="step_0000002"):
        assert load_newest(tmp_path).step == 1


def edited(text: str, **changes) -> str:
    return json.dumps({k: v for k, v in (json.loads(text) | changes).items() if v is not None})


@pytest.mark.parametrize(
    "manifest",
    [
        lambda text: "{}",
        lambda text: "[]",
        lambda text: "",
        lambda text: edited(text, **{"model.safetensors": None}),
        lambda text: edited(text, **{"state.json": None}),
        lambda text: edited(text, **{"optimizer.safetensors": "0" * 64}),
        lambda text: edited(text, **{"state.json": 3}),
    ],
    ids=["no file", "a list", "empty", "a file less", "no state", "one more", "no sum"],
)
def test_a_manifest_that_does_not_hold_is_damage(tmp_path, manifest):
    save_checkpoint(tmp_path, 1, tensors(1), {"facts": {}})
    newest = save_checkpoint(tmp_path, 2, tensors(2), {"facts": {}})
    (newest / "manifest.json").write_text(manifest((newest / "manifest.json").read_text()))
    assert damage(newest)
    with pytest.warns(UserWarning, match="step_0000002"):
        assert load_newest(tmp_path).step == 1
    save_checkpoint(tmp_path, 3, tensors(3), {"facts": {}})
    assert newest_state(tmp_path)["step"] == 3


def test_what_passes_its_sum_and_cannot_be_read_is_passed_over(tmp_path):
    save_checkpoint(tmp_path, 1, tensors(1), {})
    newest = save_checkpoint(tmp_path, 2, tensors(2), {})
    (newest / "model.safetensors").write_bytes(b"no tensors")
    (newest / "manifest.json").unlink()
    (newest / "manifest.json").write_text(json.dumps(manifest_of(newest)))
    with pytest.warns(UserWarning, match="step_0000002: it cannot be read"):
        assert load_newest(tmp_path).step == 1


def test_files_that_others_left_in_a_checkpoint_are_not_read(tmp_path):
    path = save_checkpoint(tmp_path, 1, tensors(1), {})
    (path / "._model.safetensors").write_bytes(b"of a Mac")
    (path / "notes.txt").write_text("the best one")
    assert damage(path) is None and set(load_newest(tmp_path).tensors) == {"model"}


STRANGERS = ["step_best", "step_0000006 (copy)", "step_abc", "step_9", "step_00000009", "x_step_9"]


def test_copies_and_strays_are_neither_resumed_from_nor_removed(tmp_path):
    folder = tmp_path / "checkpoints"
    path = save_checkpoint(folder, 6, tensors(6), {})
    for name in STRANGERS:
        shutil.copytree(path, folder / name)
    (folder / ".DS_Store").write_text("a Mac was here")
    (folder / "step_0000004").write_text("a file")
    (folder / "step_0000005").symlink_to(path, target_is_directory=True)
    shutil.copytree(path, folder / "step_0000009")  # renamed: it is of step 6
    with pytest.warns(UserWarning, match=r"step_0000009: it is of step 6 and was renamed"):
        assert load_newest(folder).step == 6
    assert newest_state(folder)["step"] == 6
    for step in (7, 8):
        save_checkpoint(folder, step, tensors(step), {}, keep=1)
    with pytest.warns(UserWarning, match="renamed"):
        assert load_newest(folder).step == 8
    save_checkpoint(folder, 9, tensors(9), {}, keep=1)  # whose name the copy has
    assert load_newest(folder).step == 9
    left = {p.name for p in folder.iterdir()}
    others = {".DS_Store", "step_0000004", "step_0000005", "step_0000009.found_1"}
    assert left == {*STRANGERS, *others, "step_0000009"}
    assert damage(folder / "step_best") == "it is of step 6 and was renamed"


def test_a_run_of_many_steps_keeps_their_order(tmp_path):
    for step in (9_999_999, 10_000_000):
        save_checkpoint(tmp_path, step, tensors(1), {}, keep=1)
    assert load_newest(tmp_path).step == 10_000_000


def test_a_run_never_starts_again_where_checkpoints_exist(tmp_path):
    newest = save_checkpoint(tmp_path, 2, tensors(2), {})
    (newest / "manifest.json").unlink()
    with pytest.warns(UserWarning), pytest.raises(UserError, match="no checkpoint"):
        load_newest(tmp_path)


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert load_newest(tmp_path) is None and load_newest(tmp_path / "absent") is None


KILLED = """
import os, sys, torch
from pathlib import Path
from ldm.core import files, sums
from ldm.training import checkpoint
folder = Path(sys.argv[1])
calls = 0
home = {"save_file": checkpoint, "sha256": sums, "sync": files}[sys.argv[2]]
real = getattr(home, sys.argv[2])
def dies(*args, **kwargs):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
    return real(*args, **kwargs)
setattr(home, sys.argv[2], dies)
checkpoint.save_checkpoint(folder, 2, {"m": {"a": torch.ones(4)}, "n": {"a": torch.ones(4)}}, {})
"""


@pytest.mark.parametrize(
    ("function", "call"), [("save_file", 2), ("sync", 1), ("sha256", 2), ("sync", 5)]
)
def test_a_kill_while_saving_leaves_the_last_checkpoint(tmp_path, function, call):
    save_checkpoint(tmp_path, 1, tensors(1), {})
    process = subprocess.run([sys.executable, "-c", KILLED, tmp_path, function, str(call)])
    assert process.returncode == -9
    assert load_newest(tmp_path).step == 1
    save_checkpoint(tmp_path, 3, tensors(3), {})
    assert {p.name for p in tmp_path.iterdir()} == {"step_0000001", "step_0000003"}


def test_saving_the_same_step_again_leaves_the_whole_one(tmp_path):
    path = save_checkpoint(tmp_path, 1, tensors(1), {})
    before = json.loads((path / "manifest.json").read_text())
    save_checkpoint(tmp_path, 1, tensors(1), {})
    assert json.loads((path / "manifest.json").read_text()) == before
    (path / "state.json").unlink()
    save_checkpoint(tmp_path, 1, tensors(1), {})
    assert damage(path) is None
