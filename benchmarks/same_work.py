"""One model for two ways to train and sample it, and the proof that both do the same."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from accelerate.state import AcceleratorState
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autoencoder.cache import cached_latents
from autoencoder.codec import KLCodec
from autoencoder.model import build_autoencoder
from benchmarks.diffusers_ways import Script, script_loss, stock_noise
from ldm.conditions.conditioner import build_conditioner
from ldm.config import Config
from ldm.core.errors import UserError
from ldm.data.pixels import normalise, pixels_of
from ldm.models.network import CAPTION
from ldm.models.networks import configured_network
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from ldm.training.examples import Examples, keyed_examples
from ldm.training.fit import Fit
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.prefetch import prefetched
from ldm.training.run import Run
from ldm.training.tasks.denoising import Denoising

LOSSES, IMAGES = 1e-5, 1e-3  # the most that float32 explains, of the loss and of an image's spread


@contextmanager
def exact() -> Iterator[None]:
    """Float32 that is no TF32."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    were = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = False
        yield
    finally:
        for flag, was in zip(flags, were, strict=True):
            flag.allow_tf32 = was


class SameWork:
    """Random networks and drawn images of a config, whose autoencoder is random too."""

    def __init__(self, config: Config) -> None:
        self.config, self.train = config, config.train
        self._runs: dict[str, Run] = {}
        self._loops: list[Generator[float, None, None]] = []
        self._before = dict(AcceleratorState._shared_state)
        run = self._run("no")
        self.device, self._share, photos = run.device, run.share, run.sources()
        codec = KLCodec(build_autoencoder(config.autoencoder.model).requires_grad_(False))
        text = build_conditioner(config.conditioning)
        text = replace(text, encoder=text.encoder.requires_grad_(False).eval(), trainable=False)
        shape = codec.shape(config.data.resolution)
        network = configured_network(config, shape, text.context_dim)
        spec = Spec.from_diffusion_config(config.diffusion, config.sample.grid)
        self.model = Model(codec, {CAPTION: text}, network, spec).to(run.device)
        self._latents = cached_latents(config, codec, photos, run.share, None)
        images = photos["train"]
        pixels, rows = pixels_of(images, config.data.resolution)
        self._pixels = normalise(pixels).to(run.device)
        self.captions = [images.captions(row)[0] for row in rows]
        self._ids = text.tokens(self.captions).to(run.device)

    def _run(self, precision: str) -> Run:
        """A Run as train_ldm.py makes it; one of each precision, whose folder it locks."""
        if precision not in self._runs:
            # Accelerate has one precision a process, told to a network when it is prepared
            AcceleratorState._reset_state()
            train = replace(self.config.train, mixed_precision=precision)
            self._runs[precision] = Run(replace(self.config, name=precision), "ldm", train)
        return self._runs[precision]

    def _copy(self) -> Model:
        return self.model._replace(network=deepcopy(self.model.network))

    def _task(self) -> Denoising:
        return Denoising(
            self.config.diffusion, self.model.process, self.config.seed, self.train.batch_size
        )

    def _examples(self, task: Denoising) -> Examples:
        times, text = task.times.quantiles, self.model.text
        return keyed_examples(self.config, times, self._latents, text, self._share)["train"]

    def training(self, precision: str) -> Iterator[float]:
        """The losses of a training here, step by step; until `stop`."""
        self._loops.append(self._loop(precision))
        return self._loops[-1]

    def stop(self) -> None:
        """End all trainings: the last first, for each has put its signal handlers over others'."""
        while self._loops:
            self._loops.pop().close()
        AcceleratorState._shared_state.clear()
        AcceleratorState._shared_state.update(self._before)

    def _loop(self, precision: str) -> Generator[float, None, None]:
        """The loop of train_ldm.py."""
        run, task = self._run(precision), self._task()
        trained = LatentDiffusion(self._copy(), run.train, run.device)
        examples = self._examples(task)
        fit = Fit(run, trained, {}, {}, task.memory)
        slots = run.slots(range(len(self.captions)), 0)
        batches = prefetched(examples.batch(micro) for micro in slots)
        for step in fit.steps():
            losses = []
            for batch in fit.micro_batches(batches):
                loss = task(fit.network, batch.to(run.device)).mean()
                fit.backward(loss)
                losses.append(loss.detach())
            mean = fit.mean(losses)
            pace = fit.update(step, mean)
            task.remember(run.gather)
            run.log(step + 1, loss=mean, **pace)
            yield mean

    def script(self, dtype: torch.dtype) -> Script:
        """diffusers' way to train the same."""
        return Script(self.model, self.train, dtype, self._pixels, self._ids)

    @torch.no_grad()
    def same_loss(self, theirs: Any = None) -> tuple[float, float]:
        """Both losses of one batch, in float32; `theirs` is another U-Net for theirs.

        Raises UserError where they differ.
        """
        task, model = self._task(), self._copy()
        slots = next(self._run("no").slots(range(len(self.captions)), 0))
        examples = self._examples(task)
        batch = examples.batch(slots)
        steps = self.model.process.schedule.level(task.times(batch.u)).t * 1000
        batch = batch.to(self.device)
        with exact():
            ours = task(LatentDiffusion(model, self.train, self.device), batch).mean()
            ids = model.text.tokens([examples.key(CAPTION, slot) for slot in slots])
            context = model.text.encoder(ids.to(self.device), return_dict=False)[0]
            timesteps = steps.round().long().to(self.device) - 1
            unet = self.model.network if theirs is None else theirs
            given = batch.x0, batch.eps, timesteps, context
            other = script_loss(unet, stock_noise(model), *given)
        refuse("losses", float(abs(ours - other) / other), LOSSES)
        return float(ours), float(other)

    @torch.no_grad()
    def same_images(self, ours: Any, theirs: Any, **call: Any) -> None:
        """Whether two pipelines make the same of the same noise; raises UserError where not."""
        with exact():
            a, b = (pipe(**call, output_type="np").images for pipe in (ours, theirs))
        refuse("images", float(abs(a - b).max() / b.std()), IMAGES)

    def noise(self, count: int) -> Tensor:
        """A start for samplers, (count, C, h, w)."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, *self._latents["train"].shape, generator=generator)

    def flops(self) -> float:
        """Of the U-Net's forward pass on one example."""
        unet, text = self.model.network, self.model.text
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            twin = type(unet).from_config(unet.config)
            twin.set_attn_processor(AttnProcessor())  # in products that are counted everywhere
            told = torch.empty(1, text.length, text.context_dim)
            twin(torch.empty(1, *self._latents["train"].shape), torch.zeros(1), told)
        return counter.get_total_flops()


def refuse(what: str, difference: float, most: float) -> None:
    """Raise UserError where two results are not the same."""
    if not difference <= most:
        raise UserError(
            f"the two {what} differ by {difference:.2g} of their size and may by {most:g}: what "
            "would be timed is not the same work"
        )
