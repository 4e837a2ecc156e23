"""A training step and sampling, here and by diffusers, side by side in one run.

python -m benchmarks.against_diffusers              # flowers64's U-Net; two CPU cores will do
python -m benchmarks.against_diffusers --size sd1   # Stable Diffusion 1's; a CUDA device

Both have the same networks with the same random weights, the same batch, precision and maths. First
it is shown that both do the same work: the two losses of the same x0, ε and t agree, and so do the
images that both samplers make of the same noise. Then all ways work in turns, and each round gives
one ratio of their times. Writes a table as `--out`.md and its figures as .json.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch

from benchmarks.diffusers_ways import stock_pipeline
from benchmarks.interleaved import Way, fell_short, figures, matmul_peak, now, race, table, write
from benchmarks.same_work import IMAGES, LOSSES, SameWork
from ldm.config import load_config
from ldm.core.errors import exits_with_a_sentence
from ldm.models.unet import parameter_count
from pipelines import TextToImagePipeline

PRECISIONS = {"bf16": torch.bfloat16, "no": torch.float32}
SAME = [  # what the script trains, too: uniform times, a frozen text encoder, every caption told
    *("data.source=drawn", "data.flip=false", "data.workers=0", "diffusion.schedule_args={}"),
    *("diffusion.time_sampling=uniform", "diffusion.time_args={}", "conditioning.dropout=0"),
    *("conditioning.kind=joint", "conditioning.path=null", "autoencoder.path=null"),
    *("train.accumulation=1", "train.ema_snapshots=0", "train.gradient_checkpointing=false"),
    *("train.checkpoint_every=0", "train.evaluate_every=0", "train.tracker=none"),
    *("train.steps=1000000", "train.decay=constant", "sample.sampler=ddim"),
]
CLOCKS = {"wall": now, "cpu": time.process_time}
CLOCK_SAYS = {"wall": "of the clock on the wall", "cpu": "of the processor, all threads together"}
GUIDANCE = 7.5  # diffusers' default


@dataclass(frozen=True)
class Size:
    """What is compared."""

    config: str
    changes: tuple[str, ...]
    precisions: tuple[str, ...]  # of training; the first is the reference
    batches: tuple[int, ...]  # of sampling
    paces: tuple[float | None, float | None] = (None, None)  # goals on CUDA, images/s


SIZES = {
    "toy": Size(
        "quickstart",
        (
            *("data.resolution=16", "train.batch_size=2"),
            "autoencoder.model={block_out_channels: [8, 8, 8], norm_num_groups: 4}",
            "conditioning.model={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}",
            "unet={block_out_channels: [32, 32], layers_per_block: 1}",
        ),
        *(("bf16", "no"), (1,)),
    ),
    "small": Size("flowers64", (), ("bf16", "no"), (1, 4), (10_000, None)),
    "sd1": Size(
        "sd512",
        (
            "autoencoder.model={block_out_channels: [128, 256, 512, 512], layers_per_block: 2}",
            "conditioning.model={hidden_size: 768, num_hidden_layers: 12, "
            "num_attention_heads: 12, max_position_embeddings: 77}",
            "train.batch_size=16",
        ),
        *(("bf16",), (1, 4, 16), (140, 1 / 0.6)),
    ),
}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress of what is timed."""
    with StringIO() as said, redirect_stdout(said), redirect_stderr(said):
        yield


def several(step: Callable[[], Any], count: int) -> Callable[[], None]:
    """`step`, so many times: what a loop prepares ahead is then in its own time. Warmed up."""
    step()

    def work() -> None:
        for _ in range(count):
            step()

    return work


def training_ways(work: SameWork, size: Size, flops: float, steps: int) -> list[Way]:
    """Training steps in each precision: here, by the script, and with its latents cached."""
    images, cuda = steps * work.train.batch_size, work.device.type == "cuda"
    goals = {"bf16": 2.7 if cuda else 2.0, "no": None if cuda else 5.0}
    here, there = [], []
    for precision in size.precisions:
        dtype, scripts = PRECISIONS[precision], []

        def ours(precision: str = precision) -> Callable[[], Any]:
            return several(partial(next, work.training(precision)), steps)

        def script(dtype: torch.dtype = dtype, made: list[Any] = scripts) -> Callable[[], Any]:
            made.append(work.script(dtype))
            return several(made[0].step, steps)

        def cached(made: list[Any] = scripts) -> Callable[[], Any]:
            kept = made.pop()
            kept.cache()
            return several(partial(kept.step, cached=True), steps)

        way = partial(Way, images=images, flops=3 * flops * images, dtype=dtype)
        here.append(way("here", ours, ours=True, pace=size.paces[0] if cuda else None))
        there.append(way("diffusers' script", script, goal=goals[precision]))
        there.append(way("the same, latents and text cached", cached))
    return here + there


def sampling_ways(
    work: SameWork, size: Size, flops: float, batch: int, steps: int, dtype: torch.dtype
) -> list[Way]:
    """`batch` images, from noise to pictures."""
    told = call(work, batch, steps, dtype)

    def here() -> Callable[[], Any]:
        return warmed(own_pipeline(work, dtype), told)

    def there(**how: bool) -> Callable[[], Any]:
        return warmed(stock_pipeline(work.model, steps, dtype, **how), told)

    cuda = work.device.type == "cuda"
    way = partial(Way, images=batch, flops=2 * flops * steps * batch, dtype=dtype)
    ways = [
        way("here", here, ours=True, pace=size.paces[1] if cuda and batch == 1 else None),
        way("StableDiffusionPipeline", there, goal=1.0),
        way("the same, channels last", partial(there, channels_last=True), goal=1.0),
    ]
    if cuda and batch == 1:
        ways.append(way("and compiled", partial(there, channels_last=True, compiled=True)))
    return ways


def warmed(pipe: Any, told: dict[str, Any]) -> Callable[[], Any]:
    """A call of a pipeline that was called before, for two steps."""
    pipe(**told | {"num_inference_steps": 2})
    return partial(pipe, **told)


def own_pipeline(work: SameWork, dtype: torch.dtype = torch.float32) -> TextToImagePipeline:
    """A copy of the model, to sample here."""
    pipe = TextToImagePipeline(deepcopy(work.model)).to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(
    work: SameWork, batch: int, steps: int, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """What either pipeline is told."""
    return {
        "prompt": (work.captions * batch)[:batch],
        "latents": work.noise(batch).to(work.device, dtype),
        "num_inference_steps": steps,
        "guidance_scale": GUIDANCE,
    }


def contests(
    work: SameWork, size: Size, options: argparse.Namespace
) -> Iterator[tuple[str, list[Way]]]:
    """All that is timed, each when it is over, after it was shown that all ways do the same."""
    flops, steps, half = work.flops(), options.steps, 30 * options.minutes
    clock, few = CLOCKS[options.clock], min(options.steps, 10)
    with quiet():
        ours, theirs = work.same_loss()
    say(f"the two losses of the same batch are {ours:.7g} and {theirs:.7g}")
    work.same_images(own_pipeline(work), stock_pipeline(work.model, few), **call(work, 1, few))
    say("the two pipelines make the same image")
    with quiet():
        ways = training_ways(work, size, flops, options.train_steps)
        race(ways, half, clock)
        work.stop()
    yield f"Training step, batch {work.train.batch_size}", ways
    batches = options.batches or size.batches
    dtype = torch.float16 if work.device.type == "cuda" else torch.float32
    for batch in batches:
        say(f"sampling, batch {batch}")
        ways = sampling_ways(work, size, flops, batch, steps, dtype)
        race(ways, half / len(batches), clock)
        yield f"Sampling, batch {batch}", ways


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def compare(options: argparse.Namespace) -> list[str]:
    """The table of a size, written anew after each contest; returns what fell short."""
    size, rows, short = SIZES[options.size], {}, []
    with TemporaryDirectory() as folder:
        told = [*size.changes, *SAME, f"output={folder}", *options.settings]
        config = load_config(size.config, told)
        data = replace(config.data, size=2 * config.train.batch_size + 4)
        with quiet():
            work = SameWork(replace(config, data=data))
        about, peaks = machine(work, options), {}
        try:
            for title, ways in contests(work, size, options):
                for dtype in {way.dtype for way in ways} - peaks.keys():
                    peaks[dtype] = matmul_peak(dtype, work.device, CLOCKS[options.clock])
                rows[title] = figures(ways, peaks)
                short += fell_short(title, rows[title])
                reached = {str(k).removeprefix("torch."): v / 1e12 for k, v in peaks.items()}
                about |= {"matmul_tflops": reached, "fell_short": short}
                text = f"{table(rows)}\n\n{sentences(about)}"
                write(Path(options.out), text, about | {"contests": rows})
        finally:
            work.stop()
    print(text)
    return short


def machine(work: SameWork, options: argparse.Namespace) -> dict[str, Any]:
    """On what, and of what, a table is."""
    cuda, threads = work.device.type == "cuda", torch.get_num_threads()
    return {
        "machine": torch.cuda.get_device_name() if cuda else f"CPU, threads: {threads}",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "parameters": parameter_count(work.model.network),
        "gflop": work.flops() / 1e9,
        "latents": list(work.noise(1).shape[1:]),
        "steps": options.steps,
        "clock": options.clock,
    }


def sentences(about: dict[str, Any]) -> str:
    """What stands under a table."""
    products = ", ".join(f"{v:.3g} in {k}" for k, v in about["matmul_tflops"].items())
    return (
        f"{about['machine']}; torch {about['torch']}, diffusers {about['diffusers']}. Time is "
        f"{CLOCK_SAYS[about['clock']]}. U-Net of {about['parameters'] / 1e6:.1f} M parameters on "
        f"latents of {'×'.join(map(str, about['latents']))}, {about['gflop']:.3g} GFLOP forward; "
        f"products of matrices reach {products} TFLOP/s. Sampling: {about['steps']} DDIM steps, "
        f"guidance {GUIDANCE:g}. In float32 the losses agree to {LOSSES:g} and the images to "
        f"{IMAGES:g} of their spread.\n\nFell short: {'; '.join(about['fell_short']) or 'nothing'}."
    )


@exits_with_a_sentence
def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("settings", nargs="*", metavar="key=value", help="of the config, such as train.batch_size")
    add("--size", choices=SIZES, default="small", help="; toy is for tests")
    add("--minutes", type=float, default=5.0, help="of rounds: half of training, half of sampling")
    add("--steps", type=int, default=50, help="of sampling")
    add("--train-steps", type=int, default=10 if torch.cuda.is_available() else 1, help="a round")
    add("--clock", choices=CLOCKS, default="wall", help="; cpu: on cores that others use as well")
    add("--batches", type=int, nargs="+", help="of sampling; the size's own unless given")
    add("--out", default="docs/against_diffusers")
    compare(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
