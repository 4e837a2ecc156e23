"""What is evaluated: a pipeline, the images it is measured against, and this process' share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ldm.config import DataConfig
from ldm.core import keyed
from ldm.core.errors import UserError
from ldm.core.files import refuse_unwritable
from ldm.core.inference import evaluating
from ldm.core.share import ALONE, MICRO_BATCH, Share, in_pieces
from ldm.data.example import Source
from ldm.data.order import subset
from ldm.data.pixels import normalise, pixels_of
from ldm.data.quarantine import checked
from ldm.data.source import Needs, open_sources
from ldm.diffusion.guidance import within
from ldm.diffusion.loss import denoising_loss
from ldm.diffusion.plane import Denoiser, Level, Network
from ldm.diffusion.schedules import snap
from ldm.evaluation.noise_levels import LossByLevel, level_times, loss_by_level
from ldm.evaluation.sweep import Setting
from ldm.ports.model import Model
from ldm.training.checkpoint import load_newest
from ldm.training.processes import processes, this_share
from pipelines.averaged import load_weights, weights_of
from pipelines.calls.defaults import Guidance
from pipelines.runs.record import RunRecord, run_folder
from pipelines.text_to_image import TextToImagePipeline


@dataclass
class Evaluated:
    """A pipeline and its data. Everything it does is keyed by `seed`, in pieces of fixed size."""

    pipe: TextToImagePipeline
    sources: dict[str, Source]
    resolution: int
    folder: Path  # where results and caches go
    run: RunRecord | None = None
    seed: int = 0
    share: Share = ALONE
    tick: Callable[[int], object] = lambda evaluations: None  # progress, in network evaluations
    data: str = "this data"  # its name

    def __post_init__(self) -> None:
        self.seed = int(self.seed)  # NumPy's too
        self.pipe.set_progress_bar_config(disable=True)

    @property
    def model(self) -> Model:
        """What is evaluated."""
        return self.pipe.model

    @property
    def device(self) -> torch.device:
        return self.pipe.device

    @property
    def setting(self) -> Setting:
        """How the model samples unless told otherwise."""
        steps, guidance = self.pipe.settings()
        return Setting(self.model.process.sampler, steps, guidance.scale, guidance.interval)

    def captions(self, split: str) -> list[str]:
        """One caption for each image of a split, keyed; "" where it has none."""
        source, chosen = self.sources[split], []
        for i in range(len(source)):
            choices = source.captions(i)
            pick = keyed.integer(self.seed, "caption", i, below=max(1, len(choices)))
            chosen.append(choices[pick] if choices else "")
        return chosen

    def prompts(self, count: int) -> list[str]:
        """Captions of `count` held-out images, over again where there are fewer."""
        captions = self.captions("validation")
        rounds, rest = divmod(count, len(captions))
        return captions * rounds + [captions[i] for i in subset(len(captions), rest, self.seed)]

    def sample(self, prompts: Sequence[str], setting: Setting | None = None) -> Tensor:
        """Images uint8 (N, 3, H, W): the i-th from its prompt and the i-th seed."""
        setting = setting or self.setting

        def work(piece: list[int]) -> Tensor:
            seeds = [keyed.integer(self.seed, "sample", i, below=2**62) for i in piece]
            images = self.pipe(
                [prompts[i] for i in piece],
                seed=seeds,
                sampler=setting.sampler,
                num_inference_steps=setting.steps,
                guidance_scale=setting.guidance,
                guidance_interval=setting.interval,
                output_type="pt",
            ).images
            self.tick(len(piece) * self.evaluations(setting))
            return (images * 255).round().to(torch.uint8)

        return in_pieces(work, len(prompts), self.share)

    def reaches(self, setting: Setting) -> bool:
        """Whether the model's schedule and grid have as many steps."""
        try:
            return bool(self.model.process.levels(setting.steps))
        except ValueError:
            return False

    def evaluations(self, setting: Setting) -> int:
        """Network evaluations of one image."""
        asked = self.model.process.asked(setting.steps, setting.sampler)
        guided = [setting.guidance > 1 and within(level, setting.interval) for level in asked]
        return len(guided) + sum(guided)

    @cached_property
    def encoded(self) -> dict[tuple[str, int], tuple[Tensor, list[str]]]:
        return {}

    def examples(self, split: str, count: int) -> tuple[Tensor, list[str]]:
        """Latents (N, C, h, w) of `count` images out of all, and their captions.

        The latents are drawn from their posteriors by keyed noise.
        """
        key = (split, count)
        if key not in self.encoded:
            pixels, indices = pixels_of(self.sources[split], self.resolution, count, self.seed)
            captions = self.captions(split)
            shape = self.pipe.latent_shape(self.resolution, self.resolution)

            def work(piece: list[int]) -> Tensor:
                draws = [keyed.normal(shape, self.seed, "posterior", indices[i]) for i in piece]
                noise = torch.stack(draws).to(self.device)
                return self.model.codec.encode(normalise(pixels[piece]).to(self.device), noise)

            with evaluating(self.model.codec.module):
                x0 = in_pieces(work, len(pixels), self.share)
            self.encoded[key] = x0, [captions[i] for i in indices]
        return self.encoded[key]

    def network(self, prompts: Sequence[str | None]) -> Network:
        """The raw, unguided F under `prompts`; a learned variance is left out."""
        with evaluating(self.model.text.encoder):
            context, _ = self.pipe.context(list(prompts), None, 1, guided=False)
        network = self.pipe.network(context, None, Guidance(1.0))

        def plain(x: Tensor, level: Level) -> Tensor:
            self.tick(len(x))
            return network(x, level)[:, : x.shape[1]]

        return plain

    def denoiser(self, prompts: Sequence[str | None]) -> Denoiser:
        """The unguided denoiser under `prompts`."""
        return self.model.process.denoiser(self.network(prompts))

    def loss_by_level(self, split: str, count: int, levels: int) -> LossByLevel:
        """The loss at so many levels on `count` images of a split, each under its caption."""
        x0, captions = self.examples(split, count)
        spec = self.model.process

        def losses(x0: Tensor, eps: Tensor, t: Tensor, indices: list[int]) -> Tensor:
            network = self.network([captions[i] for i in indices])
            return denoising_loss(network, spec.schedule, spec.prediction, x0, eps, t)

        times = level_times(levels, lambda t: snap(spec.schedule, t))
        with evaluating(self.model.network):
            return loss_by_level(
                losses,
                x0,
                times,
                self.seed,
                MICRO_BATCH,
                self.share,
                self.device,
            )

    @contextmanager
    def weights(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Within the block the networks have other weights, named "unet.…", "text_encoder.…"."""
        own = {k: v.clone() for k, v in weights_of(self.model).items()}
        try:
            load_weights(self.model, own | dict(tensors))
            yield
        finally:
            load_weights(self.model, own)

    def last_weights(self) -> dict[str, Tensor] | None:
        """The trained weights without EMA, where this is a run that still has a checkpoint."""
        if self.run is None:
            return None
        checkpoint = load_newest(self.run.folder / "ldm" / "checkpoints")
        return None if checkpoint is None else checkpoint.tensors.get("model.ldm")


def open_evaluated(
    model: str,
    data: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    caption: str | None = None,
) -> Evaluated:
    """A run, pipeline folder or Hub name, with its own data or `data` with its `caption` column.

    Raises UserError where there is no such model, no data for it, or no place for its results.
    """
    share = this_share()
    run = _run(model)
    folder = Path(out) if out else (run.folder if run else Path("runs") / Path(model).name)
    if run is None and not out and (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is another run, so say with --out where {model}'s results go")
    folder = folder if out else folder / "evaluation"
    refuse_unwritable(folder / "results.json")  # before images are read and samples made
    place = run.folder if run else model
    pipe = TextToImagePipeline.from_pretrained(place, device=processes().device)
    resolution = pipe.latent_shape(None, None)[1] * pipe.factor
    if run is None and data is None:
        raise UserError(f"{model} is no run, so its data is not known: name some with --data")
    config = run.config.data if run else DataConfig(resolution=resolution)
    if data is not None:
        config = DataConfig(data, holdout=config.holdout, resolution=config.resolution)
    if caption is not None:
        config = replace(config, caption=caption)
    needs, data_seed = _needs(pipe), run.config.seed if run else 0
    sources: dict[str, Source] = {
        split: checked(source, folder / "cache" / split)
        for split, source in open_sources(config, data_seed, needs).items()
    }
    for split, source in sources.items():
        if not len(source):
            raise UserError(f"the {split} set is empty: there is nothing to measure against")
    name = Path(config.source).name
    return Evaluated(pipe, sources, resolution, folder, run, seed, share, data=name)


def _needs(pipe: TextToImagePipeline) -> Needs:
    """What the images must have for this pipeline's conditioning."""
    words = pipe.model.text.words
    return "caption" if words is None else "label" if words else "nothing"


def _run(model: str) -> RunRecord | None:
    try:
        folder = run_folder(model)
    except UserError:
        return None  # a pipeline, then
    return RunRecord.read(folder)
