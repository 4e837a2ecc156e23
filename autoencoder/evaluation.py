"""How well an autoencoder reconstructs held-out images, in figures and in pictures."""

import numpy as np
import torch
from diffusers.models import AutoencoderKL
from PIL import Image
from torch import Tensor

from autoencoder.health import Posterior, Verdict, examine, posterior_of, report
from autoencoder.latents import decode, encode_moments
from autoencoder.loss.perceptual import ssim
from autoencoder.objective import Objective
from ldm.core import keyed
from ldm.core.errors import UserError
from ldm.core.files import write_text, written
from ldm.data.example import Source
from ldm.data.pixels import as_bytes, normalise, pixels_of
from ldm.evaluation.features.names import Extractor, load_extractor
from ldm.evaluation.features.network import random_feature_network
from ldm.evaluation.frechet import frechet_distance, moments
from ldm.training.run import Run

HEALTH = "health.txt"  # the last evaluation's figures and verdicts, in the run's folder
MOST_PIXELS = 2**25  # of all held-out images together: 512 at 256 px
SHOWN = 8  # images in a picture
EXAMINED = 64  # images that the health verdicts look at


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB of images (B, 3, H, W) in [−1, 1]."""
    return 10 * torch.log10(4 / (x - y).square().flatten(1).mean(1).clamp(min=1e-10))


def held_out_pixels(source: Source, resolution: int) -> Tensor:
    """Images spread over all of `source`, centre crops, uint8 (N, 3, R, R)."""
    if not len(source):
        raise UserError("no image is held out to judge by: set data.validation or data.holdout")
    return pixels_of(source, resolution, MOST_PIXELS // resolution**2)[0]


class Evaluation:
    """Figures and pictures of fixed held-out images, the same on any number of processes."""

    def __init__(self, run: Run, source: Source, objective: Objective) -> None:
        self.run, self.objective = run, objective
        resolution = run.config.data.resolution
        self.pixels = held_out_pixels(source, resolution)
        self.batch = max(1, min(64, 2**22 // resolution**2))
        self.features = feature_extractor(run)
        self.reference = moments(self.features.extract(self.pixels))

    def images(self, which: slice) -> Tensor:
        return normalise(self.pixels[which].to(self.run.device))

    def spread(self, count: int) -> Tensor:
        """At most `count` images out of all."""
        return self.images(slice(0, None, max(1, len(self.pixels) // count)))[:count]

    @torch.no_grad()
    def figures(self, vae: AutoencoderKL) -> dict[str, float]:
        """PSNR, SSIM, perceptual and Fréchet distance of reconstructions from posterior means."""
        perceptual = self.objective.perceptual
        names = ["psnr", "ssim"] + ([perceptual.label] if perceptual is not None else [])

        def judged(start: int) -> tuple[Tensor, Tensor]:
            """Sums of the figures over one batch, float64, and its features."""
            x = self.images(slice(start, start + self.batch))
            y = decode(vae, encode_moments(vae, x).chunk(2, dim=1)[0]).float().clamp(-1, 1)
            columns = [psnr(x, y), ssim(x, y)]
            if perceptual is not None:
                columns.append(perceptual(y, x))
            return torch.stack(columns).cpu().double().sum(1), self.features(as_bytes(y))

        batches = self.run.share.each(judged, range(0, len(self.pixels), self.batch))
        totals = sum((total for total, _ in batches), torch.zeros(len(names), dtype=torch.float64))
        means = totals.float().to(self.run.device) / len(self.pixels)
        figures = {f"validation/{k}": v for k, v in zip(names, means.tolist(), strict=True)}
        everyones = torch.cat([features for _, features in batches])
        if len(everyones) > 1 and bool(everyones.isfinite().all()):
            figures["validation/rfd"] = frechet_distance(moments(everyones), self.reference)
        return figures

    @torch.no_grad()
    def health(self, vae: AutoencoderKL) -> tuple[Posterior, list[Verdict]]:
        """Verdicts on the autoencoder and, once it learns, on its adversary."""
        pixels = self.spread(min(EXAMINED, self.batch))
        posterior = posterior_of(vae, pixels)
        adversary = self.objective.adversary
        if adversary is None or not float(adversary.weight):
            return posterior, examine(vae, pixels, posterior)
        weight = float(adversary.weight)
        return posterior, examine(vae, pixels, posterior, adversary.discriminator, weight)

    @torch.no_grad()
    def picture(self, vae: AutoencoderKL) -> Image.Image:
        """Rows: original, reconstruction, three times their difference, decoded prior noise."""
        x = self.spread(SHOWN)
        posterior = posterior_of(vae, x)
        y = decode(vae, posterior.mean).float()
        noise = keyed.normal(posterior.mean.shape, "prior noise").to(x.device)
        prior = posterior.channel_mean[:, None, None] + posterior.channel_std[:, None, None] * noise
        return tiled([x, y, 3 * (y - x), decode(vae, prior).float()])

    def __call__(self, step: int, vae: AutoencoderKL) -> None:
        """Record figures, verdicts and a picture of `vae` as it is."""
        figures = self.figures(vae)
        posterior, verdicts = self.health(vae)
        record: dict[str, float | str] = {**figures}
        record |= {f"latents/{name}": value for name, value in posterior.figures().items()}
        for verdict in verdicts:
            record[f"health/{verdict.name}"] = verdict.value
            record[f"verdict/{verdict.name}"] = str(verdict)
        self.run.metrics.log(step, record)
        if self.run.main:
            with written(self.run.folder / "samples" / f"step_{step:07d}.png") as file:
                self.picture(vae).save(file)
            lines = [f"{name}: {value:.4f}" for name, value in figures.items()]
            health = "\n".join([f"step: {step}", *lines, report(verdicts)])
            write_text(self.run.folder / HEALTH, health + "\n")
        said = ", ".join(f"{k.removeprefix('validation/')} {v:.4g}" for k, v in figures.items())
        ill = ", ".join(f"not '{v.name}'" for v in verdicts if not v.ok)
        self.run.say(f"step {step}: {said}; {ill or 'healthy'}")


def feature_extractor(run: Run) -> Extractor:
    """What the Fréchet distance is measured by; the one without weights needs nothing at all."""
    spec, resolution = run.config.autoencoder.features, run.config.data.resolution
    if spec == "random":
        return Extractor("random", random_feature_network(resolution).to(run.device), None)
    return load_extractor(spec, run.device)


def tiled(rows: list[Tensor]) -> Image.Image:
    """Rows of images (n, 3, H, W) in [−1, 1] as one picture."""
    grid = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)
    return Image.fromarray(np.ascontiguousarray(as_bytes(grid).permute(1, 2, 0).cpu().numpy()))
