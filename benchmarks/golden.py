"""Whether a change of the code has changed a number: hashes of everything that the chain makes.

    python -m benchmarks.golden record FILE    # before the change
    python -m benchmarks.golden check FILE     # after it, on the same machine

Short runs of the quickstart and of flowers64 on drawn images, each interrupted and resumed, on one
CPU thread: their checkpoints and exports tensor by tensor, eight images of every sampler, and the
figures of an evaluation. Bits depend on the processor and on torch, so a file is compared only on
the machine that recorded it.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DRAWN = ["data.source=drawn", "data.size=200", "data.workers=0"]
SMALL = ["train.batch_size=8", "train.warmup=5", "train.checkpoint_every=10"]
SMALL += ["train.evaluate_every=20", "train.ema_snapshots=10"]
SAMPLERS = {
    **dict.fromkeys(("ddpm", "ddim", "euler", "euler_ancestral", "heun", "dpmpp_2m"), 6),
    **dict.fromkeys(("dpmpp_2m_sde", "unipc", "consistency"), 6),
    **dict.fromkeys(("langevin", "predictor_corrector"), 4),
}
SKIPPED = {"timing", "seconds", "images_per_second", "created", "model", "run"}


def command(*arguments: str) -> None:
    """Run a command of the project to its end, on one thread."""
    alone = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env={**os.environ, **alone}, check=True)


def trained(script: str, config: str, folder: Path, steps: str, *overrides: str) -> Path:
    """A run of `config` of 40 steps (8 in stage 1) that stopped half-way and was taken up again."""
    total = 8 if script == "train_autoencoder.py" else 40
    for end in (total // 2, total):
        settings = [f"output={folder}", f"{steps}={end}", *DRAWN, *overrides]
        command(script, "--config", f"configs/{config}.yaml", *settings)
    return folder / config


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:20]


def tensors(place: Path) -> Iterator[tuple[str, str]]:
    """The hash of every tensor in the safetensors under `place`."""
    import torch
    from safetensors.torch import load_file

    for path in sorted(place.rglob("*.safetensors")):
        for name, value in sorted(load_file(path).items()):
            about = f"{value.dtype} {tuple(value.shape)} ".encode()
            raw = value.contiguous().flatten().view(torch.uint8).numpy()
            yield f"{path.relative_to(place)}: {name}", sha(about + raw.tobytes())


def newest(run: Path, stage: str) -> Path:
    return max((run / stage / "checkpoints").glob("step_" + "[0-9]" * 7))


def images(run: Path) -> Iterator[tuple[str, str]]:
    """The hash of eight images by every sampler, two prompts and four seeds each."""
    import torch

    from pipelines import TextToImagePipeline

    torch.set_num_threads(1)
    pipe = TextToImagePipeline.from_pretrained(run)
    pipe.set_progress_bar_config(disable=True)
    for sampler, steps in SAMPLERS.items():
        made: Any = pipe(
            ["a red flower", "a white flower"],
            negative_prompt="a blue flower",
            num_inference_steps=steps,
            num_images_per_prompt=4,
            sampler=sampler,
            seed=0,
            output_type="np",
        ).images
        yield f"8 images by {sampler}", sha(made.tobytes())


def figures(value: Any, name: str = "evaluation") -> Iterator[tuple[str, str]]:
    """Every number of an evaluation's results, to the last bit, but for times and places."""
    if isinstance(value, dict):
        for key in value.keys() - SKIPPED:
            yield from figures(value[key], f"{name}.{key}")
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from figures(one, f"{name}.{index}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, repr(value)


def features(folder: Path) -> Path:
    """A feature network as it was born: what it sees does not matter here."""
    from ldm.evaluation.features.network import random_feature_network, save_feature_network

    save_feature_network(random_feature_network(16), folder, {"data": "nothing", "steps": 0})
    return folder


def everything(folder: Path) -> dict[str, str]:
    quick = trained("train_ldm.py", "quickstart", folder, "train.steps", *SMALL)
    first = [
        *("autoencoder.train.batch_size=8", "autoencoder.train.warmup=2"),
        *("autoencoder.train.checkpoint_every=4", "autoencoder.train.evaluate_every=4"),
    ]
    steps = "autoencoder.train.steps"
    photos = trained("train_autoencoder.py", "flowers64", folder, steps, *first)
    trained(
        "train_ldm.py", "flowers64", folder, "train.steps", *SMALL, "sample.images_per_prompt=1"
    )
    few = ["--samples", "24", "--sweep-samples", "20", "--skip", "sweep,clip"]
    few += ["--features", f"trained:{features(folder / 'features')}"]
    command("-m", "pipelines.commands.main", "evaluate", str(quick), *few)
    results = json.loads((quick / "evaluation" / "results.json").read_text())
    made: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
        "quickstart, checkpoint": lambda: tensors(newest(quick, "ldm")),
        "quickstart, export": lambda: tensors(quick / "pipeline"),
        "flowers64, stage 1": lambda: tensors(newest(photos, "autoencoder")),
        "flowers64, autoencoder": lambda: tensors(photos / "autoencoder" / "export"),
        "flowers64, checkpoint": lambda: tensors(newest(photos, "ldm")),
        "flowers64, export": lambda: tensors(photos / "pipeline"),
        "images": lambda: images(quick),
        "figures": lambda: figures(results),
    }
    return {f"{part}: {name}": value for part, of in made.items() for name, value in of()}


def machine() -> str:
    import torch

    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, torch {torch.__version__}"


def main(action: str, file: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = everything(Path(folder))
    if action == "record":
        Path(file).write_text(json.dumps({"machine": machine(), "hashes": found}, indent=0) + "\n")
        print(f"{file}: {len(found)} hashes")
        return 0
    known = json.loads(Path(file).read_text())
    if known["machine"] != machine():
        print(f"{file} is of {known['machine']}, and this is {machine()}: not comparable")
        return 2
    before = known["hashes"]
    other = [name for name in before if name in found and found[name] != before[name]]
    lost, new = sorted(before.keys() - found.keys()), sorted(found.keys() - before.keys())
    for what, names in (("changed", other), ("lost", lost), ("new", new)):
        for name in names:
            print(f"{what}: {name}")
    same = len(before) - len(other) - len(lost)
    print(f"{same} of {len(before)} are equal, bit for bit")
    return 1 if other or lost else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
