"""What images are compared by: feature extractors, each with a name and a hash of its weights.

Figures from two extractors, or from two ways to resize, are not comparable, so both are part of the
extractor's name. Resizing is bicubic with antialiasing, in float, the same for real and for sampled
images: without antialiasing FID between tools differs by more than between models (Parmar et al.
2022).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 32  # images at once: fixed, because a network's last bits depend on it


def weight_hash(module: nn.Module) -> str:
    """16 hex digits of a module's parameters and buffers, by name and value."""
    digest = blake2b(digest_size=8)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class Extractor:
    """Images uint8 (B, 3, H, W) → features (B, D), by any network on normalised pixels."""

    name: str
    network: nn.Module
    resolution: int | None  # pixels that the network sees; None takes images as they are
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    project: Callable[[Any, Tensor], Tensor] = lambda network, x: network(x)
    weights: str = field(init=False)

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)
        object.__setattr__(self, "weights", weight_hash(self.network))

    @property
    def label(self) -> str:
        """Everything that a figure from this extractor depends on, in a line."""
        size = f"{self.resolution} px" if self.resolution else "as they are"
        return f"{self.name} [{self.weights}] {size}, bicubic antialiased"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, D) float32, on the CPU."""
        device = next(self.network.parameters()).device
        x = images.to(device).float() / 255
        if self.resolution and x.shape[-2:] != (self.resolution, self.resolution):
            size = (self.resolution, self.resolution)
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (x.new_tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        return self.project(self.network, (x - mean) / std).float().cpu()

    def extract(self, images: Tensor | Iterable[Tensor]) -> Tensor:
        """Features (N, D) of images (N, 3, H, W), or of any number of (3, H, W) as they come."""
        parts: list[Tensor] = []
        waiting: list[Tensor] = []
        for image in images:
            waiting.append(image)
            if len(waiting) == BATCH:
                parts.append(self(torch.stack(waiting)))
                waiting = []
        if waiting:  # a full batch here too
            padded = waiting + waiting[-1:] * (BATCH - len(waiting))
            parts.append(self(torch.stack(padded))[: len(waiting)])
        return torch.cat(parts)


def load_extractor(spec: str, device: torch.device | str = "cpu") -> Extractor:
    """An extractor from "KIND" or "KIND:WHERE", where KIND is one of EXTRACTORS.

    WHERE is a local folder or file, or a name on the Hub. Raises UserError for an unknown kind and
    for weights that are not here and cannot be downloaded.
    """
    kind, _, where = spec.partition(":")
    if kind not in EXTRACTORS:
        raise UserError(f"unknown features {kind!r}: there are {', '.join(EXTRACTORS)}")
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are loaded
            extractor = EXTRACTORS[kind](where)
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"features {spec!r} cannot be loaded ({reason}); give a local folder as {kind}:FOLDER, "
            "or train features on the data itself with --train-features"
        ) from error
    extractor.network.to(device)
    return extractor


def _trained(where: str) -> Extractor:
    from ldm.evaluation.feature_network import load_feature_network

    if not where:
        raise UserError("features 'trained' need their folder: trained:FOLDER")
    network, name = load_feature_network(Path(where))
    return Extractor(name, network, network.resolution)


def _inception(where: str) -> Extractor:
    from ldm.evaluation.inception import load_inception

    network = load_inception(where or None)
    return Extractor("Inception-v3 (FID)", network, 299)


def _dinov2(where: str) -> Extractor:
    from transformers import Dinov2Model

    name = where or "facebook/dinov2-base"
    model = Dinov2Model.from_pretrained(name)
    return Extractor(
        f"DINOv2 {Path(name).name}",
        model,
        224,
        IMAGENET_MEAN,
        IMAGENET_STD,
        lambda network, x: network(x).pooler_output,
    )


def _clip(where: str) -> Extractor:
    from transformers import CLIPVisionModelWithProjection

    name = where or "openai/clip-vit-large-patch14-336"
    model: Any = CLIPVisionModelWithProjection.from_pretrained(name)
    return Extractor(
        f"CLIP {Path(name).name}",
        model,
        model.config.image_size,
        CLIP_MEAN,
        CLIP_STD,
        lambda network, x: network(x).image_embeds,
    )


def _open_clip(where: str) -> Extractor:
    from ldm.evaluation.clip_score import open_clip_extractor

    return open_clip_extractor(where)


EXTRACTORS: dict[str, Callable[[str], Extractor]] = {
    "trained": _trained,
    "inception": _inception,
    "dinov2": _dinov2,
    "clip": _clip,
    "open_clip": _open_clip,
}
