"""The PatchGAN discriminator and all that an adversary remembers between steps."""

import math
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from autoencoder.loss.terms import ADVERSARIAL, lecam_penalty, r1_penalty
from ldm.config import AutoencoderLossConfig, TrainConfig
from ldm.core.errors import UserError
from ldm.training.fit import Means
from ldm.training.optim import GuardedStep, adamw, average_gradients

HEAD_START = 200  # steps that the discriminator learns before the generator listens to it
LECAM_DECAY = 0.99
PLATEAU_WINDOW = 500  # steps over which the slow average of the reconstruction remembers
PLATEAU_GAIN = 0.01  # it is a plateau where the fast average is less than this fraction below
FIGURES = ("discriminator", "accuracy", "real_logit", "fake_logit")
AT_PLATEAU = -1  # adversarial_start: when the reconstruction stops improving


class PatchDiscriminator(nn.Sequential):
    """A logit for every patch of an image (Isola et al. 2017): (B, 3, H, W) → (B, 1, h, w).

    Strided 4×4 convolutions, each with GroupNorm, whose statistics, unlike BatchNorm's, do not
    depend on how a batch is split over processes or mixed from real and fake.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        inner = width
        for layer in range(1, layers + 1):
            outer = min(width * 2**layer, width * 8)
            stride = 2 if layer < layers else 1
            blocks += [
                nn.Conv2d(inner, outer, 4, stride, 1, bias=False),
                nn.GroupNorm(max(outer // 16, 1), outer),
                nn.LeakyReLU(0.2),
            ]
            inner = outer
        super().__init__(*blocks, nn.Conv2d(inner, 1, 4, 1, 1))
        for module in self:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)


class Adversary(nn.Module):
    """The discriminator, the weight that its gradients get, and when it begins.

    All of it is in buffers, so that a checkpoint holds it. The weight of a step is measured in
    the step before: it then is the same however a batch is split over processes and accumulation.
    """

    begin: Tensor
    weight: Tensor
    real_mean: Tensor
    fake_mean: Tensor
    fast: Tensor
    slow: Tensor

    def __init__(self, config: AutoencoderLossConfig, resolution: int) -> None:
        super().__init__()
        if config.adversarial_kind not in ADVERSARIAL:
            raise UserError(
                f"autoencoder.loss.adversarial_kind={config.adversarial_kind!r} is not one of "
                f"{', '.join(ADVERSARIAL)}"
            )
        self.config = config
        self.discriminator_loss, self.generator_loss = ADVERSARIAL[config.adversarial_kind]
        self.discriminator = PatchDiscriminator(layers=2 if resolution < 128 else 3)
        self.register_buffer("begin", torch.tensor(-1))  # its first step, where a plateau decides
        self.register_buffer("weight", torch.tensor(0.0))  # λ
        for name in ("real_mean", "fake_mean", "fast", "slow"):
            self.register_buffer(name, torch.tensor(0.0))

    @classmethod
    def of(
        cls, config: AutoencoderLossConfig, resolution: int, device: torch.device
    ) -> "Adversary | None":
        """The adversary that the loss asks for, if any."""
        return cls(config, resolution).to(device) if config.adversarial else None

    @property
    def first_step(self) -> int:
        """The discriminator's; −1 where it is not known yet."""
        start = self.config.adversarial_start  # may be another than a checkpoint was made with
        return int(self.begin) if start == AT_PLATEAU else max(0, start - HEAD_START)

    def learns(self, step: int) -> bool:
        """Whether the discriminator is trained in this step."""
        return 0 <= self.first_step <= step

    def speaks(self, step: int) -> bool:
        """Whether the generator feels it."""
        start = self.config.adversarial_start
        first = self.first_step
        return first >= 0 and step >= (first + HEAD_START if start == AT_PLATEAU else start)

    def judge(self, fake: Tensor) -> Tensor:
        """The generator's loss; the discriminator's own weights receive no gradient."""
        frozen = {k: p.detach() for k, p in self.discriminator.named_parameters()}
        return self.generator_loss(torch.func.functional_call(self.discriminator, frozen, (fake,)))

    def forward(self, real: Tensor, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss with its regularisers, and figures of how it is doing."""
        real = real.detach().requires_grad_(self.config.r1 > 0)
        logits = self.discriminator(torch.cat([real, fake.detach()])).float()
        real_logits, fake_logits = logits.chunk(2)
        total = self.discriminator_loss(real_logits, fake_logits)
        if self.config.r1:
            total = total + self.config.r1 * r1_penalty(real, real_logits)
        if self.config.lecam:
            total = total + self.config.lecam * lecam_penalty(
                real_logits, fake_logits, self.real_mean, self.fake_mean
            )
        accuracy = 0.5 * ((real_logits > 0).float().mean() + (fake_logits < 0).float().mean())
        figures = (total, accuracy, real_logits.mean(), fake_logits.mean())
        return total, {k: v.detach() for k, v in zip(FIGURES, figures, strict=True)}

    @torch.no_grad()
    def remember(self, step: int, reconstruction: float, logits: tuple[float, float]) -> None:
        """Take in a step's mean reconstruction loss and mean logits of real and fake."""
        if not all(map(math.isfinite, (reconstruction, *logits))):
            return
        if self.learns(step):
            first = step == self.first_step
            for mean, value in zip((self.real_mean, self.fake_mean), logits, strict=True):
                mean.copy_(mean + (1.0 if first else 1 - LECAM_DECAY) * (value - mean))
        if step == 0:
            self.fast.fill_(reconstruction)
            self.slow.fill_(reconstruction)
        self.fast += (reconstruction - self.fast) * (10 / PLATEAU_WINDOW)
        self.slow += (reconstruction - self.slow) / PLATEAU_WINDOW
        late = step >= 2 * PLATEAU_WINDOW
        if self.first_step < 0 and late and self.fast > (1 - PLATEAU_GAIN) * self.slow:
            self.begin.fill_(step + 1)


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
