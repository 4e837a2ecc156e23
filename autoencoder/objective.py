"""The loss of the autoencoder, term by term."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.models import AutoencoderKL
from torch import Tensor, nn

from autoencoder.loss.discriminator import Adversary
from autoencoder.loss.perceptual import Perceptual, build_perceptual
from autoencoder.loss.terms import adaptive_weight, kl_divergence, reconstruction_loss
from autoencoder.model import last_layer
from autoencoder.reconstructor import Output
from ldm.config import AutoencoderConfig


class Objective(nn.Module):
    """The generator's whole loss; see loss/terms.py."""

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
