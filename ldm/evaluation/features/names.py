"""Feature extractors by name: public ones, from a folder or the Hub, and those trained here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ldm.core.errors import UserError
from ldm.evaluation.features.extractor import Extractor

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
            f"features {spec!r} cannot be loaded ({reason}); give a local folder or file as "
            f"{kind}:WHERE, or train features on the data itself with --train-features"
        ) from error
    extractor.network.to(device)
    return extractor


def _trained(where: str) -> Extractor:
    from ldm.evaluation.features.network import load_feature_network

    if not where:
        raise UserError("features 'trained' need their folder: trained:FOLDER")
    network, name = load_feature_network(Path(where))
    return Extractor(name, network, network.resolution)


def _inception(where: str) -> Extractor:
    from ldm.evaluation.features.inception import load_inception

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
    from ldm.evaluation.features.clip_score import open_clip_extractor

    return open_clip_extractor(where)


EXTRACTORS: dict[str, Callable[[str], Extractor]] = {
    "trained": _trained,
    "inception": _inception,
    "dinov2": _dinov2,
    "clip": _clip,
    "open_clip": _open_clip,
}
