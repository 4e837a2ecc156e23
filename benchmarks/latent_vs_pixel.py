"""What latents buy: the same images, a U-Net on their pixels and one on their latents, in one run.

python -m benchmarks.latent_vs_pixel --autoencoder 64=runs/flowers64/autoencoder/export \
    --autoencoder 256=runs/flowers256/autoencoder/export --minutes 10 data.source=PATH

For each resolution there are three contestants, each a config that train_ldm.py trains:
  latent       the U-Net on the autoencoder's latents
  pixel        autoencoder.kind=pixels, and the U-Net with outer stages that bring pixels down to
               the latents' resolution, that is, with the autoencoder's work to be learned along
  pixel, same  the very same U-Net on pixels, as the lectures compare; its cost only

Each gets the same wall time, from the start of its training to its last step: storing the images,
encoded or as they are, is in it; sampling is not, nor is the training of the autoencoder, which is
done once for many diffusion models. Quality is the Fréchet distance of unconditional samples to
held-out images.
"""

import argparse
import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from itertools import pairwise
from math import prod
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from tqdm import tqdm

import train_ldm
from autoencoder.evaluation import held_out_pixels
from autoencoder.latents import downsampling
from autoencoder.model import load_autoencoder
from benchmarks.latent_vs_pixel_report import write
from ldm.config import Config, load_config
from ldm.core.errors import UserError, exits_with_a_sentence
from ldm.data.pixels import pixels_of, to_pixels
from ldm.data.source import open_source
from ldm.evaluation.features.names import Extractor, load_extractor
from ldm.evaluation.features.network import random_feature_network
from ldm.evaluation.frechet import frechet_distance, moments
from ldm.models.unet import parameter_count
from ldm.training.checkpoint import load_newest
from ldm.training.processes import processes
from pipelines import TextToImagePipeline
from pipelines.averaged import load_weights
from pipelines.many import many

SETTINGS = [
    "unet.block_out_channels=[128, 256, 256]",  # attention at all resolutions but the finest
    *("conditioning.kind=none", "diffusion.schedule=flow", "diffusion.prediction=flow"),
    *("train.batch_size=32", "train.learning_rate=2e-4", "train.decay=constant"),
    *("train.mixed_precision=bf16", "train.checkpoint_every=0", "train.evaluate_every=0"),
    *("train.tracker=none", "sample.guidance_scale=1", "sample.images_per_prompt=1"),
]
MOST = 10**9  # steps of a run whose end is a matter of time


def now() -> float:
    """Seconds, once the device has done all that it was asked to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def kept_for_backward() -> Iterator[list[int]]:
    """Counts the bytes that autograd keeps, parameters apart: the same on any device."""
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if not (x.is_leaf and x.requires_grad):
            storage = x.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        return x

    total = [0]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield total
    total[0] = sum(sizes.values())


@dataclass
class Contestant:
    """One way to see the images, as a run of train_ldm.py."""

    name: str
    resolution: int
    config: Config
    seconds: list[float] = field(default_factory=list)  # of training so far, after each step
    figures: dict[str, Any] = field(default_factory=dict)
    samples: Tensor | None = None

    def train(self, steps: int = MOST, enough: Callable[[], bool] = lambda: False) -> None:
        """Train on from where it was to so many steps, or to the step after which it is `enough`.

        It is then stopped as a user stops it, by a signal. What follows the last step, as saving
        and evaluating, stops no clock.
        """
        gc.collect()  # what the last one held on the GPU
        before, start = (self.seconds or [0.0])[-1], now()

        def stepped(*_: Any) -> None:
            self.seconds.append(before + now() - start)
            if enough():
                signal.raise_signal(signal.SIGTERM)

        config = replace(self.config, train=replace(self.config.train, steps=steps))
        hook = register_optimizer_step_post_hook(stepped)
        try:
            with StringIO() as said, redirect_stdout(said), redirect_stderr(said):
                status = train_ldm.train(config)
        finally:
            hook.remove()
        if status == 128 + signal.SIGINT:
            raise KeyboardInterrupt

    def pipeline(self) -> TextToImagePipeline:
        """What it exported after its first step, with the averaged weights of its last."""
        pipe = TextToImagePipeline.from_pretrained(self.config.folder, device=processes().device)
        newest = load_newest(self.config.folder / "ldm" / "checkpoints")
        assert newest is not None, "a run saves when it is stopped"
        load_weights(pipe.model, newest.tensors["ema"])
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def sample(self, count: int) -> Tensor:
        """Images, uint8 (count, 3, R, R)."""
        pipe, size = self.pipeline(), self.config.train.batch_size
        with tqdm(total=count, desc="sampling", unit="image", leave=False) as bar:
            images = many(pipe, [""] * count, 0, size, bar.update)
        return torch.stack([to_pixels(image, self.resolution) for image in images])


def cost(contestant: Contestant, timed: int) -> None:
    """Elements, parameters, memory and time of a step, by the first ones of its run."""
    figures, seconds = contestant.figures, contestant.seconds
    batch = contestant.config.train.batch_size
    try:
        with kept_for_backward() as kept:
            contestant.train(steps=1)
        figures["activations_gib"] = kept[0] / 2**30
        pipe = contestant.pipeline()
        figures["elements"] = prod(pipe.latent_shape(None, None))
        figures["parameters"] = parameter_count(pipe.unet)
        del pipe
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        contestant.train(enough=lambda: len(seconds) == 2 + timed)
        figures["seconds_per_step"] = median(b - a for a, b in pairwise(seconds[-timed - 1 :]))
        if torch.cuda.is_available():
            figures["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        start = now()
        contestant.sample(batch)
        figures["seconds_per_sample"] = (now() - start) / batch
    except torch.OutOfMemoryError:
        figures["out_of_memory"] = True


def competition(rivals: list[Contestant], options: argparse.Namespace) -> tuple[float, str]:
    """Quality of each at a quarter, at half and at all of the given minutes.

    Returns the Fréchet distance of as many training images, and what it is to.
    """
    config, resolution, device = rivals[0].config, rivals[0].resolution, processes().device
    if options.features == "random":
        network = random_feature_network(resolution).to(device)
        extractor = Extractor("random", network, None)
    else:
        extractor = load_extractor(options.features, device)
    train, validation = (
        open_source(config.data, split, config.seed, "nothing") for split in ("train", "validation")
    )
    held_out = held_out_pixels(validation, resolution)
    reference = moments(extractor.extract(held_out))
    for rival in (r for r in rivals if "out_of_memory" not in r.figures):
        curve = rival.figures["curve"] = []
        for limit in (15 * options.minutes, 30 * options.minutes, 60 * options.minutes):  # seconds
            rival.train(enough=lambda r=rival, limit=limit: r.seconds[-1] >= limit)
            rival.samples = rival.sample(options.samples)
            distance = frechet_distance(moments(extractor.extract(rival.samples)), reference)
            minutes, steps = rival.seconds[-1] / 60, len(rival.seconds)
            curve.append({"minutes": minutes, "steps": steps, "frechet": distance})
            print(f"{rival.name} {resolution} px: {curve[-1]}", flush=True)
    real, _ = pixels_of(train, resolution, options.samples)
    floor = frechet_distance(moments(extractor.extract(real)), reference)
    judges = f"{len(held_out)} held-out images in {extractor.label}"
    return floor, f"of {options.samples} samples to {judges}"


def contestants(spec: str, folder: Path, options: argparse.Namespace) -> list[Contestant]:
    """Those of one RESOLUTION=AUTOENCODER; `folder` is for their runs."""
    side, _, path = spec.partition("=")
    if not side.isdigit() or not path:
        raise UserError(f"--autoencoder {spec!r} is not of the form RESOLUTION=FOLDER")
    depth = downsampling(load_autoencoder(path)).bit_length() - 1
    shift = f"diffusion.schedule_args={{shift: {max(int(side) / 64, 1.0)}}}"  # as SD3 has it
    pixels = ["autoencoder.kind=pixels", shift]
    found = []
    for name, outer, codec in (
        ("latent", 0, [f"autoencoder.path={path}"]),
        ("pixel", depth, pixels),
        ("pixel, same", 0, pixels),
    ):
        given = [*SETTINGS, *options.settings, *codec, f"data.resolution={side}"]
        config = load_config(None, [*given, f"output={folder}", f"name={name.replace(', ', '-')}"])
        core = list(config.unet["block_out_channels"])
        plain, attending = outer + 1, len(core) - 1
        unet = config.unet | {
            "block_out_channels": [core[0] // 2] * outer + core,
            "down_block_types": ["DownBlock2D"] * plain + ["CrossAttnDownBlock2D"] * attending,
            "up_block_types": ["CrossAttnUpBlock2D"] * attending + ["UpBlock2D"] * plain,
        }
        data = config.data
        if name == "pixel, same" or not options.minutes:  # a step costs the same on any images
            data = replace(data, size=min(data.size or MOST, 2 * config.train.batch_size))
        found.append(Contestant(name, int(side), replace(config, unet=unet, data=data)))
    return found if options.same else found[:2]


def compare(options: argparse.Namespace) -> None:
    """Everything, for each autoencoder that was given."""
    all_of: list[Contestant] = []
    floors: dict[int, float] = {}
    judges = ""
    for spec in options.autoencoder:
        with TemporaryDirectory() as folder:
            mine = contestants(spec, Path(folder), options)
            for contestant in tqdm(mine, desc=f"cost at {spec}", unit="contestant"):
                cost(contestant, options.timed)
            if options.minutes:
                floors[mine[0].resolution], judges = competition(mine[:2], options)
        all_of += mine
    write(all_of, floors, judges, options.minutes, Path(options.out))


@exits_with_a_sentence
def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("settings", nargs="*", metavar="key=value", help="of their configs, such as data.source")
    add("--autoencoder", action="append", required=True, metavar="RESOLUTION=PATH")
    add("--minutes", type=float, default=10.0, help="of each contestant; 0: costs alone")
    add("--no-same", dest="same", action="store_false", help="without the same U-Net on pixels")
    add("--samples", type=int, default=320, help="images of each quality figure")
    add("--features", default="random", help="as ldm evaluate's")
    add("--timed", type=int, default=20, help="steps whose median time is a step's")
    add("--out", default="docs/latent_vs_pixel")
    compare(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
