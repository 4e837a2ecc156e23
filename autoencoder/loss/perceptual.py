"""Perceptual distances between images: gradients and structure, LPIPS, or a network's features."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel

from ldm.core.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def ssim(x: Tensor, y: Tensor, window: int = 7) -> Tensor:
    """Structural similarity (B,) of images in [−1, 1], uniform windows (Wang et al. 2004, eq. 13).

    It is defined on intensities, so both are brought to [0, 1] first.
    """
    x, y = (x + 1) / 2, (y + 1) / 2
    c1, c2 = 0.01**2, 0.03**2
    mu_x, mu_y = (F.avg_pool2d(v, window, 1) for v in (x, y))
    var_x = F.avg_pool2d(x * x, window, 1) - mu_x**2
    var_y = F.avg_pool2d(y * y, window, 1) - mu_y**2
    covariance = F.avg_pool2d(x * y, window, 1) - mu_x * mu_y
    luminance = (2 * mu_x * mu_y + c1) / (mu_x**2 + mu_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1)


class GradientDistance(nn.Module):
    """L1 between image gradients plus 1 − SSIM, at several scales: no weights are needed.

    A blurred edge costs it more than a mean error does; it knows nothing of textures.
    """

    label = "gradients"

    def __init__(self, scales: int = 3) -> None:
        super().__init__()
        self.scales = scales

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance (B,)."""
        total = x.new_zeros(len(x), dtype=torch.float32)
        for scale in range(self.scales):
            if scale:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            if min(x.shape[-2:]) < 7:
                break
            d = x - y
            horizontal, vertical = d.diff(dim=-1).abs(), d.diff(dim=-2).abs()
            total = total + horizontal.flatten(1).mean(1) + vertical.flatten(1).mean(1)
            total = total + 0.5 * (1 - ssim(x, y))
        return total / self.scales


class FeatureDistance(nn.Module):
    """LPIPS' distance without its learned weights, in a frozen network's hidden states.

    Features are normalised to unit length over channels, and the squared differences are averaged
    over positions and layers (Zhang et al. 2018, eq. 1 with w = 1).
    """

    label = "features"
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    @classmethod
    def load(cls, folder: Path) -> "FeatureDistance":
        """Any vision model that transformers can load: ResNet, ConvNeXt, ViT, DINO, CLIP ..."""
        try:
            network = AutoModel.from_pretrained(folder)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"autoencoder.loss.perceptual_network={str(folder)!r} is neither 'gradients', "
                f"'lpips' nor a folder of a vision model: {reason}"
            ) from None
        return cls(getattr(network, "vision_model", network), IMAGENET_MEAN, IMAGENET_STD)

    def features(self, x: Tensor) -> list[Tensor]:
        """Hidden states with unit length over channels, each (B, positions, channels)."""
        pixels = ((x + 1) / 2 - self.mean) / self.std
        states = self.network(pixels, output_hidden_states=True).hidden_states
        flat = [s.flatten(2).transpose(1, 2) if s.ndim == 4 else s for s in states]
        return [F.normalize(s.float(), dim=-1, eps=1e-6) for s in flat]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance (B,)."""
        with torch.no_grad():  # y is the target
            of_y = self.features(y)
        pairs = zip(self.features(x), of_y, strict=True)
        return torch.stack([(a - b).square().sum(-1).mean(-1) for a, b in pairs]).mean(0)


class LPIPS(nn.Module):
    """The `lpips` package's distance, with gradients to the image."""

    label = "lpips"

    def __init__(self) -> None:
        super().__init__()
        import lpips  # an extra: pip install latent-diffusion-pipeline[lpips]

        self.network = lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance (B,)."""
        return self.network(x, y).flatten(1).mean(1)


Perceptual = GradientDistance | FeatureDistance | LPIPS


def build_perceptual(name: str) -> tuple[Perceptual, str | None]:
    """The distance that `perceptual_network` names, and what to tell where it had to be another.

    LPIPS needs its package and, once, a download of its backbone; without them the gradients serve.
    """
    if name == "gradients":
        return GradientDistance(), None
    if name == "lpips":
        try:
            return LPIPS(), None
        except (ImportError, OSError) as error:  # URLError is an OSError
            return GradientDistance(), (
                f"lpips is not to be had here ({error}), so the perceptual loss is that of image "
                "gradients and SSIM; `pip install lpips` and a first run online give LPIPS"
            )
    return FeatureDistance.load(Path(name)), None
