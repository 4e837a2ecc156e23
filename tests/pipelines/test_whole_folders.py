"""A pipeline folder is whole or it is not there, and two exports of one model are equal."""

import json
import os
import resource
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipeline

from ldm.core.errors import NotWritten, UserError
from ldm.diffusion.plane import EPS
from pipelines.containers.fingerprints import fingerprints, recorded, refuse_mixed
from pipelines.containers.writer import INDEX
from pipelines.text_to_image import TextToImagePipeline


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline("class")


@pytest.fixture(scope="module")
def other():
    """The same kind of model, with other weights in all three networks."""
    pipe = tiny_pipeline("class")
    with torch.no_grad():
        for network in (pipe.unet, pipe.vae, pipe.text_encoder):
            next(network.parameters()).add_(1)
    return pipe


@pytest.fixture(scope="module")
def exports(pipe, other, tmp_path_factory):
    places = [tmp_path_factory.mktemp("exports") / name for name in ("old", "new")]
    for model, place in zip((pipe, other), places, strict=True):
        model.save_pretrained(place)
    return places


def content(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }  # fmt: skip


def read(folder):
    refuse_mixed(folder, recorded(json.loads((folder / "ldm.json").read_text())))


def test_two_exports_of_one_model_are_equal_in_every_byte(pipe, exports, tmp_path):
    pipe("daisy", num_inference_steps=1)  # which pads, and a tokenizer remembers
    pipe.save_pretrained(tmp_path / "again")
    TextToImagePipeline.from_pretrained(exports[0]).save_pretrained(tmp_path / "from a folder")
    for folder in ("again", "from a folder"):
        assert content(tmp_path / folder) == content(exports[0])


def test_others_files_in_a_folder_stay_and_stale_ones_of_ours_go(pipe, exports, tmp_path):
    place = shutil.copytree(exports[1], tmp_path / "pipeline")
    (place / "README.md").write_text("mine")
    (place / ".git").mkdir()
    pipe.save_pretrained(place, stock=False)  # has no scheduler
    assert (place / "README.md").read_text() == "mine" and (place / ".git").is_dir()
    assert not (place / "scheduler").exists()
    read(place)


def test_variants_lie_side_by_side_and_each_is_verified(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    pipe.save_pretrained(tmp_path, variant="fp16")
    unet = tmp_path / "unet"
    assert len(list(unet.glob("*.safetensors"))) == 2
    read(tmp_path)
    (unet / "diffusion_pytorch_model.safetensors").unlink()  # one may be removed
    read(tmp_path)
    (unet / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="fp16"):
        read(tmp_path)


@pytest.mark.parametrize(
    "part",
    [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_part_of_another_export_is_refused_by_name(exports, tmp_path, part):
    place = shutil.copytree(exports[0], tmp_path / "pipeline")
    shutil.copyfile(exports[1] / part, place / part)
    with pytest.raises(UserError, match=f"{part} is not the file that .* export it again"):
        TextToImagePipeline.from_pretrained(place)


def test_every_file_that_is_cut_empty_flipped_or_gone_is_noticed(exports, tmp_path):
    place = shutil.copytree(exports[0], tmp_path / "pipeline")
    for name in fingerprints(place):
        path, before = place / name, (place / name).read_bytes()
        flipped = bytearray(before)
        flipped[len(before) // 2] ^= 1
        for damaged in (before[: len(before) // 2], b"", bytes(flipped), None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            name = path.relative_to(place).as_posix()
            with pytest.raises((UserError, UserWarning), match=name), warnings.catch_warnings():
                warnings.simplefilter("error")
                read(place)
            path.write_bytes(before)
    read(place)


def test_a_configuration_changed_by_hand_is_told_and_holds(exports, tmp_path):
    place = shutil.copytree(exports[0], tmp_path / "pipeline")
    config = place / "scheduler" / "scheduler_config.json"
    text = config.read_text()
    config.write_text(text.replace('"v_prediction"', '"epsilon"'))
    assert config.read_text() != text
    with pytest.warns(UserWarning, match=r"scheduler/scheduler_config\.json changed after"):
        changed = TextToImagePipeline.from_pretrained(place)
    assert changed.spec.prediction == EPS


def test_a_folder_without_fingerprints_loads_as_before(exports, tmp_path):
    place = shutil.copytree(exports[0], tmp_path / "pipeline")
    (place / "ldm.json").write_text('{"num_inference_steps": 3, "guidance_scale": 2.0}')
    assert TextToImagePipeline.from_pretrained(place).defaults.num_inference_steps == 3


def test_a_folder_that_has_lost_its_defaults_is_refused(exports, tmp_path):
    """Or it would sample with diffusers' 50 steps and guidance of 7.5, in silence."""
    place = shutil.copytree(exports[0], tmp_path / "pipeline")
    (place / "ldm.json").unlink()
    with pytest.raises(UserError, match=r"ldm\.json is missing; export it again"):
        TextToImagePipeline.from_pretrained(place)


def test_files_outside_the_folder_are_no_files_of_it(exports, tmp_path):
    place = shutil.copytree(exports[0], tmp_path / "pipeline")
    (place / "ldm.json").write_text('{"files": {"../outside": "0"}}')
    with pytest.raises(UserError, match=r"ldm\.json cannot be read"):
        TextToImagePipeline.from_pretrained(place)


def killed_at(operation, model, place):
    """Export in a child that dies at its n-th operation on a file; whether it came to that."""
    if (child := os.fork()) == 0:
        left = operation

        def hook(event, args):
            nonlocal left
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
                left -= 1
                if left < 0:
                    os._exit(9)

        try:
            sys.addaudithook(hook)
            model.save_pretrained(place)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def what_is_there(place, exports):
    if not (place / INDEX).exists():
        return "none"
    try:
        read(place)
    except UserError:
        return "refused"
    names = recorded(json.loads((place / "ldm.json").read_text()))
    now = {name: (place / name).read_bytes() for name in names}
    for which, export in zip(("old", "new"), exports, strict=True):
        if now == {k: v for k, v in content(export).items() if k != "ldm.json"}:
            return which
    return "mixed"


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_an_export_killed_at_any_file_leaves_the_old_one_the_new_one_or_none(
    other, exports, tmp_path, step
):
    place, found, operation = tmp_path / "pipeline", [], 0
    died = True
    while died:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(exports[0], place)
        died = killed_at(operation, other, place)
        found.append(what_is_there(place, exports))
        operation += step
    print({what: found.count(what) for what in found})
    assert found[0] == "old" and found[-1] == "new"
    assert set(found) <= {"old", "none", "new"}
    if step == 1:
        assert "none" in found
    other.save_pretrained(place)  # the next export sweeps
    assert content(place) == content(exports[1])
    assert not list(Path(place).glob(".writing_*"))


def test_a_full_disk_during_an_export_leaves_the_old_one(other, exports, tmp_path):
    place = shutil.copytree(exports[0], tmp_path / "pipeline")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(NotWritten, match="pipeline cannot be written: File too large"):
            other.save_pretrained(place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert content(place) == content(exports[0])
