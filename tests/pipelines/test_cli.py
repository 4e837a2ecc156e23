"""The `ldm` command does what its help says, and a mistake gets a sentence and exit status 2."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import tiny_pipeline, write_run
from PIL import Image

from ldm.config import load_config, save_config
from pipelines.commands.main import COMMANDS, main
from pipelines.evaluation.results import Reported
from pipelines.report.sections import made
from pipelines.runs.record import RunRecord, describe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"))


def test_help_imports_no_heavy_library():
    script = """
import sys
from pipelines.commands.main import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
heavy = {"torch", "diffusers", "transformers", "numpy", "PIL", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    command = [sys.executable, "-c", script]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    for name in COMMANDS:
        assert f"\n    {name}" in shown.stdout


def test_generate_writes_the_pipelines_own_image(run, tmp_path, capsys):
    out = tmp_path / "new" / "flower.png"
    arguments = ["a red flower", "--model", str(run), "--out", str(out), "--seed", "3"]
    assert main(["generate", *arguments]) == 0
    expected = tiny_pipeline()("a red flower", seed=3).images[0]
    difference = np.asarray(Image.open(out), int) - np.asarray(expected, int)
    assert np.abs(difference).max() <= 1
    assert "1 image, seed 3" in capsys.readouterr().out
    arguments += ["--guidance-interval", "0", "1", "--sampler", "euler_ancestral", "--brownian"]
    assert main(["generate", *arguments]) == 0
    noise = {"sampler": "euler_ancestral", "brownian": True}
    told = tiny_pipeline()("a red flower", seed=3, guidance_interval=(0, 1), **noise)
    expected = told.images[0]
    assert np.abs(np.asarray(Image.open(out), int) - np.asarray(expected, int)).max() <= 1


def test_generate_draws_a_grid_of_several_and_fills_a_folder(run, tmp_path, capsys):
    call = ["generate", "a rose", "a daisy", "--model", str(run / "pipeline"), "--n", "5"]
    call += ["--steps", "2", "--sampler", "euler", "--guidance-scale", "2", "--seed", "0"]
    assert main([*call, "--out", str(tmp_path / "grid.png")]) == 0
    assert main([*call, "--out", str(tmp_path / "folder")]) == 0
    assert "10 images, seed 0" in capsys.readouterr().out
    files = sorted((tmp_path / "folder").iterdir())
    assert [f.name for f in files] == [f"{i:04d}.png" for i in range(10)]
    pipe = tiny_pipeline()
    options = {"num_inference_steps": 2, "sampler": "euler", "guidance_scale": 2.0}
    ninth = pipe("a daisy", seed=9, **options).images[0]
    assert np.abs(np.asarray(Image.open(files[9]), int) - np.asarray(ninth, int)).max() <= 1
    grid = Image.open(tmp_path / "grid.png")
    assert grid.width > 5 * 128 and grid.height > 2 * 128


def test_inspect_says_what_was_trained_and_how_far(run, capsys):
    assert main(["inspect", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "drawn, 64 x 64 pixels" in shown
    assert "step 20 of 40 (50%), loss 0.05, validation loss 0.25, images/s 50" in shown
    assert "step_0000020.png" in shown
    assert Image.open(run / "curves.png").width > 1000


def test_inspect_reads_a_run_by_name_and_by_its_pipeline_folder(run, monkeypatch):
    assert RunRecord.read(run / "pipeline").folder == run
    (run.parent / "runs").symlink_to(run.parent)
    monkeypatch.chdir(run.parent)
    assert RunRecord.read("tiny").config.name == "tiny"


def test_a_run_that_has_just_begun_is_described(run, tmp_path):
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    rows = describe(RunRecord.read(tmp_path))
    assert rows["ldm"] == "not begun" and rows["pipeline"] == "not exported yet"
    assert main(["inspect", str(tmp_path)]) == 0


def test_a_transformer_on_pixels_is_called_that_and_no_first_stage_is_asked_for(run, tmp_path):
    other = ["network.kind=transformer", "autoencoder.kind=pixels"]
    save_config(load_config(run / "config.yaml", other), tmp_path / "config.yaml")
    told = Reported.read(tmp_path)
    rows = describe(told.run)
    assert rows["network"] == "transformer" and rows["autoencoder"] == "none: pixels as they are"
    assert "train_ldm.py" in made(told) and "train_autoencoder.py" not in made(told)


def test_data_shows_images_and_counts_captions(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = []
    for i in range(10):
        Image.new("RGB", (20, 30), (25 * i, 0, 0)).save(folder / f"{i}.png")
        caption = "" if i == 9 else "a red flower" if i < 6 else "a black one"
        lines.append(json.dumps({"file_name": f"{i}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    out = tmp_path / "data.png"
    arguments = [f"data.source={folder}", "data.holdout=0", "--out", str(out), "--n", "6"]
    assert main(["data", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "10 to train on, 1 of them without a caption" in shown
    assert "9, 2 of them distinct" in shown and "'a red flower' x 6" in shown
    assert Image.open(out).width == 6 * (160 + 12)


def test_data_tells_what_would_stop_training_and_what_is_not_read(tmp_path, capsys, caplog):
    folder = tmp_path / "ph\x1b[2Jotos"
    folder.mkdir()
    for i in range(10):
        Image.new("RGB", (20, 30), (25 * i, 0, 0)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a \x1b[31mred\u202e flower {i}")
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:40])
    (folder / "x\x1b[5m.heic").write_bytes(b"x")
    out = tmp_path / "data.png"
    arguments = [f"data.source={folder}", f"output={tmp_path}", "--out", str(out)]
    assert main(["data", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "9 to train on" in shown and re.search(r"^held out +1$", shown, re.MULTILINE)
    assert re.search(
        r"1 of \d, training stops until they are repaired or removed: 4\.png \(", shown
    )
    assert any("1 .heic in " in record.message for record in caplog.records)
    told = [shown, *(record.getMessage() for record in caplog.records)]
    assert not any(c in text for c in "\x1b\u202e" for text in told)
    assert not (tmp_path / "experiment").exists()  # looking leaves no run behind


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["inspect", "no-such-run"], "error: 'no-such-run' is no run folder"),
        (["generate", "x", "--model", "no-such/model"], "error: no-such/model cannot be loaded"),
        (["data", "data.sorce=x"], "error: unknown config key 'data.sorce'; the nearest is"),
        (["push", "no-such-run", "name"], "error: 'no-such-run' is no run folder"),
    ],
)
def test_a_mistake_gets_a_sentence_and_status_2(arguments, sentence, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(sentence) and shown.count("\n") == 1


@pytest.mark.parametrize("command", ["generate x --model m", "data", "inspect r"])
@pytest.mark.parametrize("out", ["roses.v2", "roses.xyz"])
def test_a_picture_that_cannot_be_written_is_refused_before_it_is_made(command, out, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--out", out])
    assert stop.value.code == 2
    assert f"{out!r} does not end as a picture: .png, .jpg" in capsys.readouterr().err


def test_a_seed_that_torch_has_not_and_data_that_cannot_be_read_get_a_sentence(
    run, tmp_path, capsys
):
    seed = str(10**23)
    out = str(tmp_path / "x.png")
    assert main(["generate", "x", "--model", str(run), "--seed", seed, "--out", out]) == 2
    assert f"error: seed {seed} is not one of torch's" in capsys.readouterr().err
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.png").write_bytes(b"no picture")
    (tmp_path / "bad" / "metadata.csv").write_text("file_name,text\n0.png,a flower\n")
    assert main(["data", f"data.source={tmp_path / 'bad'}", "data.holdout=0", "--out", out]) == 2
    assert (
        "error: none of the 1 images can be read; the first is 0.png: " in capsys.readouterr().err
    )


def test_the_home_folder_is_meant_by_a_tilde_in_a_commands_paths(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parent))
    assert main(["inspect", f"~/{run.name}", "--out", "~/home/curves.png"]) == 0
    assert (run.parent / "home" / "curves.png").is_file()


@pytest.mark.parametrize("option", ["--guidance-scale nan", "--guidance-interval 0 nan", "--n 0"])
def test_what_is_no_number_is_refused_before_anything_is_loaded(option, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", "x", "--model", "m", *option.split()])
    assert stop.value.code == 2
    assert f"argument {option.split()[0]}" in capsys.readouterr().err


def test_curves_are_drawn_into_a_new_folder(run, tmp_path):
    assert main(["inspect", str(run), "--out", str(tmp_path / "new" / "curves.png")]) == 0
    assert (tmp_path / "new" / "curves.png").is_file()


def test_a_run_without_a_pipeline_is_not_pushed(run, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    assert main(["push", str(tmp_path), "name"]) == 2
    assert "has no pipeline yet" in capsys.readouterr().err
