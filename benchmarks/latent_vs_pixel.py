"""What latents buy: the same images, one U-Net on their pixels and one on their latents, one run.

python benchmarks/latent_vs_pixel.py --data PATH \
    --autoencoder 64=runs/flowers64/autoencoder/export \
    --autoencoder 256=runs/flowers256/autoencoder/export --minutes 10 --out docs/latent_vs_pixel

For each resolution there are three contestants:
  latent       the U-Net on the autoencoder's latents
  pixel        the same U-Net with outer stages that bring pixels down to the latents' resolution,
               that is, with the autoencoder's work to be learned along
  pixel, same  the very same U-Net on pixels, as the lectures compare; its cost only

Each gets the same wall time, in which the latent one must also encode the images; sampling pauses
the clock. The autoencoder's own training is not in it: it is done once for many diffusion models.
Quality is the Fréchet distance of unconditional samples to held-out images.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from latent_vs_pixel_contestants import Contestant, Trainer, contestants, now
from latent_vs_pixel_report import picture, table
from torch import Tensor
from tqdm import tqdm

from autoencoder.evaluation import held_out_pixels
from ldm.config import Config, load_config
from ldm.core.errors import UserError, exits_with_a_sentence
from ldm.data.pixels import pixels_of
from ldm.data.source import Source, open_source
from ldm.evaluation.features.names import Extractor, load_extractor
from ldm.evaluation.features.network import random_feature_network
from ldm.evaluation.frechet import frechet_distance, moments

LECTURE = "512 × 512 × 3 = 786,432 elements against 64 × 64 × 4 = 16,384: 48 times fewer"


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


def cost(contestant: Contestant, images: int, options: argparse.Namespace) -> None:
    """Elements, parameters, memory and time of a step at one batch size."""
    device = options.device
    channels, height, width = contestant.shape
    figures = contestant.figures
    figures["elements"] = channels * height * width
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        trainer = Trainer(contestant, options)
        figures["parameters"] = sum(p.numel() for p in trainer.unet.parameters())
        with kept_for_backward() as kept:
            x = torch.zeros(options.batch, *contestant.shape, device=device)
            trainer.network(x, trainer.schedule.level(torch.ones(1).double().to(device)))
        figures["activations_gib"] = kept[0] / 2**30
        for _ in range(options.warm):
            trainer.step(images)
        start = now(device)
        for _ in range(options.timed):
            trainer.step(images)
        figures["seconds_per_step"] = (now(device) - start) / options.timed
        if device == "cuda":
            figures["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        start = now(device)
        trainer.sample(options.batch)
        figures["seconds_per_sample"] = (now(device) - start) / options.batch
    except torch.OutOfMemoryError:
        figures["out_of_memory"] = True


def compete(
    contestant: Contestant,
    images: int,
    reference: Any,
    extractor: Extractor,
    options: argparse.Namespace,
) -> None:
    """Train for the given minutes; quality at a quarter, at half and at all of them."""
    trainer, budget = Trainer(contestant, options), 60 * options.minutes
    spent, curve = contestant.seconds, []
    for share in (0.25, 0.5, 1.0):
        bar = tqdm(desc=f"{contestant.name} {contestant.resolution} px", unit="step")
        start = now(options.device)
        while spent + now(options.device) - start < share * budget:
            trainer.step(images)
            bar.update()
        spent += now(options.device) - start
        bar.close()
        contestant.samples = trainer.sample(options.samples)
        distance = frechet_distance(moments(extractor.extract(contestant.samples)), reference)
        curve.append({"minutes": spent / 60, "steps": trainer.steps, "frechet": distance})
        print(f"{contestant.name} {contestant.resolution} px: {curve[-1]}", flush=True)
    contestant.figures["curve"] = curve


def competition(
    rivals: list[Contestant], source: Source, config: Config, options: argparse.Namespace
) -> tuple[float, str]:
    """Let them compete; returns the distance of as many training images, and to what it is."""
    resolution = config.data.resolution
    extractor = (
        Extractor("random", random_feature_network(resolution).to(options.device), None)
        if options.features == "random"
        else load_extractor(options.features, options.device)
    )
    held_out = held_out_pixels(open_source(config.data, "validation", needs="nothing"), resolution)
    reference = moments(extractor.extract(held_out))
    for contestant in rivals:
        compete(contestant, len(source), reference, extractor, options)
    real, _ = pixels_of(source, resolution, len(held_out))
    floor = frechet_distance(moments(extractor.extract(real)), reference)
    return floor, f"{len(held_out)} held-out images in {extractor.label}"


def compare(options: argparse.Namespace) -> None:
    """Everything, for each autoencoder that was given."""
    all_of: list[Contestant] = []
    floors: dict[int, float] = {}
    judges = ""
    for spec in options.autoencoder:
        resolution, _, path = spec.partition("=")
        if not resolution.isdigit() or not path:
            raise UserError(f"--autoencoder {spec!r} is not of the form RESOLUTION=FOLDER")
        overrides = [f"data.source={options.data}", f"data.resolution={resolution}"]
        overrides.append(f"data.workers={options.workers}")
        overrides += [f"data.size={options.size}"] if options.size else []
        config = load_config(None, overrides)
        source = open_source(config.data, "train", needs="nothing")
        with TemporaryDirectory() as folder:
            mine = contestants(config, path, source, Path(folder), options)
            mine = mine if options.same else mine[:2]
            for c in tqdm(mine, desc=f"cost at {resolution} px", unit="contestant"):
                cost(c, len(source), options)
            if options.minutes:
                floors[int(resolution)], judges = competition(mine[:2], source, config, options)
        all_of += mine

    precision = "bfloat16 autocast" if options.bf16 else "float32"
    lines = [
        table(all_of),
        f"Batch {options.batch}, {options.sampling_steps} sampling steps and decoding, "
        f"{precision}. For reference: {LECTURE}.",
    ]
    if options.minutes:
        lines += [
            "",
            f"{options.minutes:g} minutes each; Fréchet distance to {judges}, after a quarter, "
            "half and all of them. As many training images are at "
            f"{', '.join(f'{v:.3g} ({r} px)' for r, v in floors.items())}.",
        ]
    written = "\n".join(lines)
    print(written)
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(written + "\n")
    figures = [{"name": c.name, "resolution": c.resolution, **c.figures} for c in all_of]
    out.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    if options.minutes:
        picture(all_of, floors).savefig(out.with_suffix(".png"), dpi=110)
    print(f"written: {out}.md, .json{' and .png' if options.minutes else ''}")


@exits_with_a_sentence
def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--data", default="drawn", help="as data.source of a config")
    parser.add_argument("--autoencoder", action="append", required=True, metavar="RESOLUTION=PATH")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="wall time for each contestant; 0: costs alone"
    )
    parser.add_argument(
        "--no-same",
        dest="same",
        action="store_false",
        help="leave out the same U-Net on pixels, whose attention at 256 px is hours of a CPU",
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--samples", type=int, default=320, help="images per quality figure")
    parser.add_argument("--sampling-steps", type=int, default=50)
    parser.add_argument("--features", default="random", help="as ldm evaluate's")
    parser.add_argument("--size", type=int, help="use this many images")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--warm", type=int, default=3, help="steps before the timed ones")
    parser.add_argument("--timed", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-bf16", dest="bf16", action="store_false")
    parser.add_argument("--out", default="docs/latent_vs_pixel")
    compare(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
