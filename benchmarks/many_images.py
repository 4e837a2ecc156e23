"""What a warm start of stage 2 costs by the number of images: seconds by phase, and memory.

python -m benchmarks.many_images [--kind=joint|clip] [--captions=N] 1000 10000 100000

The images are faked: rows of an Arrow table with one tiny PNG and a caption each, caches that were
filled without decoding or encoding any. What is measured is what train_ldm.py does before its first
step, in a process of its own for each size. `anonymous` memory is the process's own, and grows with
Python objects; `mapped` memory is files, which the system takes back when it needs room.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from autoencoder.cache import STATISTICS, cached_latents
from autoencoder.encoding import Crops, Encoder
from autoencoder.model import configured_codec
from ldm.conditions.conditioner import build_conditioner
from ldm.conditions.tokenizers import clip_bpe_tokenizer
from ldm.config import Config, load_config
from ldm.data.repeats import repeated
from ldm.models.network import CAPTION
from ldm.models.networks import configured_network
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from ldm.training.examples import keyed_examples
from ldm.training.facts import latent_diffusion_facts
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.preflight import preflight
from ldm.training.run import Run
from ldm.training.tasks.denoising import Denoising

SETTINGS = [
    *("data.resolution=8", "data.flip=false", "data.workers=0", "autoencoder.kind=pixels"),
    *("autoencoder.cache_dtype=float16", "conditioning.model.hidden_size=16"),
    *("conditioning.model.num_hidden_layers=1", "conditioning.model.max_position_embeddings=16"),
    "unet={block_out_channels: [32], down_block_types: [CrossAttnDownBlock2D], "
    "up_block_types: [CrossAttnUpBlock2D], layers_per_block: 1}",
]


def write_rows(count: int, folder: Path, captions: int) -> None:
    """Save a table of `count` rows whose captions are `captions` different ones."""
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (200, 40, 90)).save(buffer, "PNG")
    picture = buffer.getvalue()

    def rows() -> Iterator[dict[str, Any]]:
        for i in range(count):
            text = f"a photo of flower number {i % captions}, seen from above"
            yield {"image": {"bytes": picture, "path": f"{i:09d}.png"}, "text": text}

    features = Features(image=ImageFeature(), text=Value("string"))
    data = Dataset.from_generator(rows, features=features, cache_dir=str(folder / "writing"))
    data.save_to_disk(folder / "rows")


def faked(
    encoder: Encoder, crops: Crops, shards: dict[int, Path], size: int, *_: Any, **__: Any
) -> None:
    """What `Encoder.write` leaves, of noise."""
    noise = np.random.default_rng(0).standard_normal((size, *encoder.shape)).astype(encoder.dtype)
    for k, path in shards.items():
        here = range(k * size, min((k + 1) * size, len(crops.source)))
        names = [crops.source.name(i) for i in here]
        columns = {"name": names, "reason": [None] * len(here), "moments": noise[: len(here)]}
        encoder.store.write(path, columns, encoder.features)


def start(config: Config, mark: Callable[[str], object]) -> Any:
    """What train_ldm.py does before its first step, and the first batch; `mark` ends a phase.

    Returns what it keeps for the training.
    """
    options, sample = config.train, config.sample
    spec = Spec.from_diffusion_config(
        config.diffusion, sample.grid, sample.sampler, sample.sampler_args
    )
    task = Denoising(config.diffusion, spec, config.seed, options.batch_size)
    run = Run(config, "ldm", options)
    mark("imports")
    photos = run.sources()
    mark("sources")
    repeated(photos["train"], config.data.repeats)
    mark("repeats")
    codec = configured_codec(config)
    text = build_conditioner(config.conditioning, photos["train"].label_names)
    shape = codec.shape(config.data.resolution)
    network = configured_network(config, shape, text.context_dim)
    model = Model(codec, {CAPTION: text}, network, spec).to(run.device)
    trained = LatentDiffusion(model, options, run.device)
    facts = latent_diffusion_facts(config, model)
    known = run.earlier_facts(facts).get(STATISTICS)
    mark("networks")
    latents = cached_latents(config, codec, photos, run.share, known)
    mark("latents")
    examples = keyed_examples(config, task.times.quantiles, latents, text, run.share)
    mark("captions")
    epoch = repeated(latents["train"], config.data.repeats)
    mark("repeats")
    preflight(run, trained, latents, len(epoch), None)
    mark("preflight")
    slots = run.slots(epoch, 0)
    examples["train"].batch(next(slots))
    mark("first batch")
    return photos, examples, epoch


def memory() -> dict[str, float]:
    """MiB of this process that are resident: its own, of files, and the most of both so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    names = {"anonymous": "RssAnon", "mapped": "RssFile", "peak": "VmHWM"}
    return {name: int(found[key].split()[0]) / 1024 for name, key in names.items()}


def measured(config: Config) -> dict[str, Any]:
    """Seconds by phase, and MiB at the end."""
    seconds: dict[str, float] = {}
    then = time.perf_counter()

    def mark(phase: str) -> None:
        nonlocal then
        now = time.perf_counter()
        seconds[phase] = seconds.get(phase, 0) + now - then
        then = now

    kept = start(config, mark)
    found = {"seconds": seconds, "memory": memory()}
    del kept
    return found


def encoder_folder(folder: Path) -> Path:
    """A tiny CLIP text encoder, saved where this gives."""
    tokenizer = clip_bpe_tokenizer(16)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 1}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), num_hidden_layers=1, max_position_embeddings=16, **size
    )
    CLIPTextModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="joint", choices=("joint", "clip"))
    parser.add_argument("--captions", type=int, default=sys.maxsize, help="different ones at most")
    parser.add_argument("--folder", type=Path, help="where the faked rows and caches stay")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("sizes", type=int, nargs="+")
    given = parser.parse_args()
    if given.one:
        config = configured(given.folder, given.kind)
        print(json.dumps(measured(config)))
        return
    print("images", "seconds", "MiB", sep="\t")
    for size in given.sizes:
        with ExitStack() as stack:
            root = given.folder or Path(stack.enter_context(TemporaryDirectory()))
            folder = root / f"{given.kind}_{min(given.captions, size)}_{size}"
            if not (folder / "ready").exists():
                prepare(size, folder, given.kind, given.captions)
            command = [sys.executable, "-m", "benchmarks.many_images", "--one", "--folder"]
            command += [str(folder), "--kind", given.kind, str(size)]
            found = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            seconds = found["seconds"]
            total = sum(seconds.values()) - seconds.pop("imports") - seconds.pop("networks")
            phases = ", ".join(f"{name} {took:.2f}" for name, took in seconds.items())
            held = ", ".join(f"{name} {mib:.0f}" for name, mib in found["memory"].items())
            print(size, f"{total:.2f} ({phases})", held, sep="\t", flush=True)


def configured(folder: Path, kind: str) -> Config:
    place = f"conditioning={{kind: clip, path: {folder / 'clip'}}}" if kind == "clip" else ""
    more = [f"data.source={folder / 'rows'}", f"output={folder / 'runs'}", "name=many"]
    settings = [s for s in SETTINGS if kind != "clip" or not s.startswith("conditioning")]
    return load_config(None, [*settings, *more, *([place] if place else [])])


def prepare(size: int, folder: Path, kind: str, captions: int) -> None:
    """Rows, and the caches that a first start leaves, without decoding or encoding an image."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(size, folder, captions)
    if kind == "clip":
        encoder_folder(folder / "clip")
    config = configured(folder, kind)
    nothing_bad = patch("ldm.data.quarantine._decode_all", lambda source: {})
    with nothing_bad, patch.object(Encoder, "write", faked):
        start(config, lambda phase: None)
    (folder / "ready").touch()


if __name__ == "__main__":
    main()
