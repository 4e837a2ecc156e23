"""An installed wheel is enough: to train the quickstart, to sample it, to look at it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from ldm import __version__
from ldm.config import shipped

ROOT = Path(__file__).parents[1]
SOURCES = ("ldm", "autoencoder", "pipelines", "configs")
TOY = "data.size=40 data.workers=0 train.steps=2 train.batch_size=4 sample.num_inference_steps=2"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that the checkout stays as it is."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, source)
    build = ["wheel", "-q", "--no-build-isolation", "--no-deps", "--no-index", "-w", out, source]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of commands of an environment with the wheel and, by a path, what it needs."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index"]
    subprocess.run([*pip, "--no-deps", wheel], check=True)
    site = next(place.glob("lib/python*/site-packages"))
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin"


def run(command, folder, status=0):
    """What a command prints, run in `folder` as one's own shell would."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == status, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_in_an_empty_folder_trains_the_quickstart_samples_and_looks(installed, tmp_path):
    code = (
        "import ldm, autoencoder as a, pipelines as p; print(ldm.__file__, a.__file__, p.__file__)"
    )
    assert run([installed / "python", "-c", code], tmp_path).count(str(installed.parent)) == 3
    assert run([installed / "ldm", "--version"], tmp_path).strip() == f"ldm {__version__}"
    said = run([installed / "train_ldm", "--config", "quickstart", *TOY.split()], tmp_path)
    assert "runs/quickstart/pipeline" in said
    toy = [*TOY.split(), "train.steps=3"]
    launched = ["-m", "accelerate.commands.launch", "--cpu", "-m", "train_ldm"]
    run([installed / "python", *launched, "--config", "quickstart", *toy], tmp_path)
    model = ["--model", "runs/quickstart"]
    run([installed / "ldm", "generate", "a red flower", *model, "--out", "red.png"], tmp_path)
    assert (tmp_path / "red.png").is_file()
    assert "step 3 of 3" in run([installed / "ldm", "inspect", "runs/quickstart"], tmp_path)
    refused = run([installed / "train_autoencoder", "--config", "quickstart"], tmp_path, 2)
    assert "autoencoder.path names a finished autoencoder" in refused


@pytest.mark.slow
def test_a_wheel_holds_every_module_config_and_pretrained_file(installed):
    site = next(installed.parent.glob("lib/python*/site-packages"))
    for package in ("ldm", "autoencoder", "pipelines"):
        ours = {p.relative_to(ROOT) for p in (ROOT / package).rglob("*") if p.is_file()}
        ours = {p for p in ours if "__pycache__" not in p.parts and p.suffix != ".pyc"}
        assert [str(p) for p in sorted(ours) if not (site / p).is_file()] == []
    for name, config in shipped().items():
        assert (site / "ldm" / "configs" / f"{name}.yaml").read_text() == config.read_text()
