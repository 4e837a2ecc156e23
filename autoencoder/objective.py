"""What stage 1 trains, its examples, and the loss of the autoencoder."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.models import AutoencoderKL
from torch import Tensor, nn

from autoencoder.discriminator import FIGURES, Adversary
from autoencoder.latents import LOGVAR_RANGE
from autoencoder.losses import adaptive_weight, kl_divergence, reconstruction_loss
from autoencoder.model import last_layer
from autoencoder.perceptual import Perceptual, build_perceptual
from ldm.config import AutoencoderConfig, TrainConfig
from ldm.core import keyed
from ldm.core.errors import UserError
from ldm.data.example import Source
from ldm.data.images import ImageDataset, batches
from ldm.training.gradients import average_gradients
from ldm.training.optim import GuardedStep, adamw
from ldm.training.run import Run


class Output(NamedTuple):
    image: Tensor  # (B, 3, H, W)
    mean: Tensor  # (B, C, h, w), of the posterior
    logvar: Tensor
    half: Tensor | None = None  # (B, 3, H/2, W/2), decoded from half-size latents


class Batch(NamedTuple):
    pixels: Tensor  # (B, 3, R, R) in [−1, 1], the target
    corrupted: Tensor  # what the encoder sees: the same, unless a denoising autoencoder is trained
    noise: Tensor  # (B, C, h, w), of the posterior sample
    error: Tensor | None  # (B, C, h, w): by how much the decoder's latents are off


class Reconstructor(nn.Module):
    """Image → posterior → sample → image; without a KL the sample is the mean: a plain autoencoder.

    `trainable` is "all" or "decoder"; the encoder of the latter keeps the latent space as it is.
    """

    def __init__(self, vae: AutoencoderKL, config: AutoencoderConfig) -> None:
        super().__init__()
        if config.trainable not in ("all", "decoder"):
            raise UserError(
                f"autoencoder.trainable={config.trainable!r} is not known; use all or decoder"
            )
        self.vae = vae
        self.decoder_only = config.trainable == "decoder"
        self.samples = config.loss.kl > 0 or self.decoder_only
        self.halves = config.loss.equivariance > 0
        vae.requires_grad_(True)
        if self.decoder_only:
            vae.encoder.requires_grad_(False)
            if vae.quant_conv is not None:
                vae.quant_conv.requires_grad_(False)
        elif not self.samples:
            make_certain(vae)

    def forward(self, pixels: Tensor, noise: Tensor, error: Tensor | None = None) -> Output:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.decoder_only):
            posterior = self.vae.encode(pixels).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
        latents = mean + (0.5 * logvar).exp() * noise if self.samples else mean
        latents = latents if error is None else latents + error
        image = self.vae.decode(latents).sample.float()
        return Output(image, mean, logvar, self._half(latents) if self.halves else None)

    def _half(self, latents: Tensor) -> Tensor:
        """What half-size latents decode to."""
        height, width = (max(1, side // 2) for side in latents.shape[-2:])
        return self.vae.decode(F.adaptive_avg_pool2d(latents, (height, width))).sample.float()

    def configure(self, options: TrainConfig) -> None:
        """Make this module as fast, or as small, as the options ask."""
        self.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        torch.backends.cudnn.benchmark = True  # all of its batches have one shape
        if options.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()
        if options.compile:
            decoder = self.vae.decoder
            # not the last layer: the adaptive weight takes gradients there and nowhere else
            for part in (self.vae.encoder, decoder.mid_block, *decoder.up_blocks):
                part.compile()


@torch.no_grad()
def make_certain(vae: AutoencoderKL) -> None:
    """Give every posterior the least variance there is, for a plain autoencoder.

    Nothing trains it, so it stays; whoever samples the posterior later gets the mean.
    """
    if (conv := vae.quant_conv) is None or conv.bias is None:
        raise UserError("a plain autoencoder (autoencoder.loss.kl=0) needs use_quant_conv=true")
    conv.weight[len(conv.weight) // 2 :] = 0
    conv.bias[len(conv.bias) // 2 :] = LOGVAR_RANGE[0]


class Objective(nn.Module):
    """The generator's whole loss; see losses.py."""

    def __init__(self, config: AutoencoderConfig, vae: AutoencoderKL, adversary: Adversary | None):
        super().__init__()
        self.config, self.adversary = config.loss, adversary
        self.kl = 0.0 if config.trainable == "decoder" else config.loss.kl
        self.last_layer = [last_layer(vae)]  # in a list: not a parameter of the objective
        self.perceptual: Perceptual | None = None
        self.notice: str | None = None
        if config.loss.perceptual:
            self.perceptual, self.notice = build_perceptual(config.loss.perceptual_network)
        self.gradients: list[Tensor] = []  # of reconstruction and generator, at the last layer

    def forward(
        self, output: Output, target: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss of a micro-batch, and its parts."""
        likeness, parts = self._likeness(output.image, target)
        parts["kl"] = kl_divergence(output.mean, output.logvar).mean()
        loss = likeness + self.kl * parts["kl"] if self.kl else likeness
        if output.half is not None:
            height, width = output.half.shape[-2:]
            half = F.adaptive_avg_pool2d(target, (height, width))
            parts["equivariance"], _ = self._likeness(output.half, half)
            loss = loss + self.config.equivariance * parts["equivariance"]
        if (adversary := self.adversary) is not None:
            parts["generator"] = torch.zeros_like(likeness)
            if adversary.speaks(step):
                parts["generator"] = adversary.judge(output.image)
                self._measure(likeness, parts["generator"])
                weight = self.config.adversarial * adversary.weight
                loss = loss + weight * parts["generator"]
        return loss, {"loss": loss.detach(), **{k: v.detach() for k, v in parts.items()}}

    def _likeness(self, image: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction and perceptual distance: their weighted sum, and each."""
        parts = {
            "reconstruction": reconstruction_loss(image, target, self.config.reconstruction).mean()
        }
        likeness = parts["reconstruction"]
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual(image, target).mean()
            likeness = likeness + self.config.perceptual * parts["perceptual"]
        return likeness, parts

    def _measure(self, likeness: Tensor, generator: Tensor, scale: float = 2.0**10) -> None:
        """Add up both gradients at the last layer; `scale` keeps float16's from vanishing."""
        measured = [
            torch.autograd.grad(loss * scale, self.last_layer, retain_graph=True)[0].float() / scale
            for loss in (likeness, generator)
        ]
        if self.gradients:
            measured = [a + b for a, b in zip(self.gradients, measured, strict=True)]
        self.gradients = measured

    def __str__(self) -> str:
        """The terms and their weights."""
        c = self.config
        terms: list[str] = [c.reconstruction]
        terms += [f"{self.kl:g} KL"] if self.kl else []
        if self.perceptual is not None:
            terms += [f"{c.perceptual:g} {type(self.perceptual).__name__}"]
        terms += [f"{c.equivariance:g} scale equivariance"] if c.equivariance else []
        if self.adversary is not None:
            terms += [f"{c.adversarial:g} λ {c.adversarial_kind} GAN"]
        return " + ".join(terms)

    def balance(self, accelerator: Accelerator) -> None:
        """Set the weight λ of the next step from the gradients of this one."""
        if self.gradients and self.adversary is not None:
            weight = adaptive_weight(*(accelerator.reduce(g, "mean") for g in self.gradients))
            if torch.isfinite(weight):  # else this step was skipped, and its weight with it
                self.adversary.weight.copy_(weight)
        self.gradients = []


class Means:
    """A step's figures, averaged over its micro-batches and the processes."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Tensor]] = []

    def add(self, figures: dict[str, Tensor]) -> None:
        self.rows.append(figures)

    def over(self, accelerator: Accelerator) -> dict[str, float]:
        """One exchange and one wait for the device, for all of them."""
        table = torch.stack([torch.stack([v.float() for v in row.values()]) for row in self.rows])
        means = accelerator.reduce(table.mean(0), "mean").tolist()
        return dict(zip(self.rows[0], means, strict=True))


class AdversaryTurn:
    """The discriminator's part of a step, after the generator's.

    Only after it: the fp16 scaler may change its scale in the generator's step, so a gradient that
    was taken before would be divided by another scale than it was multiplied with.
    """

    def __init__(self, accelerator: Accelerator, adversary: Adversary, train: TrainConfig) -> None:
        self.accelerator, self.adversary, self.train = accelerator, adversary, train
        options = replace(train, betas=(0.5, 0.9), weight_decay=0.0)
        self.optimizer = accelerator.prepare(adamw(adversary.parameters(), options))
        self.step = GuardedStep(accelerator, self.optimizer, adversary.parameters(), train.clip)

    def __call__(
        self, step: int, pairs: list[tuple[Tensor, Tensor]], reconstruction: float, rate: float
    ) -> dict[str, float]:
        """Learn from (real, fake) images of the step's micro-batches; returns figures."""
        adversary, accelerator = self.adversary, self.accelerator
        figures = dict.fromkeys(FIGURES, 0.0)
        if adversary.learns(step):
            means = Means()
            for real, fake in pairs:
                with accelerator.autocast():
                    loss, parts = adversary(real, fake)
                accelerator.backward(loss / len(pairs))
                means.add(parts)
            average_gradients(accelerator, adversary.parameters())
            figures = means.over(accelerator)
            self.step(figures["discriminator"], rate)
        adversary.remember(step, reconstruction, (figures["real_logit"], figures["fake_logit"]))
        return {**figures, "adversarial_weight": float(adversary.weight)}


def examples(
    run: Run, source: Source, latent_shape: tuple[int, ...], start: int
) -> Iterator[Batch]:
    """The micro-batches of this process from step `start` on, with noise keyed by (step, slot)."""
    config, seed, device = run.config, run.config.seed, run.device
    dataset = ImageDataset(source, config.data, seed)
    slots = run.slots(range(len(source)), start, shuffle=not source.sequential)
    for count, (pixels, places) in enumerate(batches(dataset, slots, config.data.workers)):
        step = start + count // run.train.accumulation
        noise = keyed.example_normal(latent_shape, seed, step, places, "posterior")
        corrupted = pixels
        if std := config.autoencoder.loss.input_noise:
            shape = pixels.shape[1:]
            corrupted = pixels + std * keyed.example_normal(shape, seed, step, places, "corruption")
        error = None
        if std := config.autoencoder.loss.latent_noise:
            strength = std * keyed.example_normal((1, 1, 1), seed, step, places, "strength").abs()
            error = strength * keyed.example_normal(latent_shape, seed, step, places, "error")
            error = _moved(error, device)
        pixels, corrupted, noise = (_moved(x, device) for x in (pixels, corrupted, noise))
        yield Batch(pixels, corrupted, noise, error)


def _moved(x: Tensor, device: torch.device) -> Tensor:
    return x.to(device, memory_format=torch.channels_last, non_blocking=True)
