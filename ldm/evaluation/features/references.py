"""Features of real images, computed once: cached under a key of the images and the extractor."""

from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ldm.core.files import written
from ldm.core.share import Share, in_pieces
from ldm.core.text import say
from ldm.data.example import Source, digest
from ldm.data.order import subset
from ldm.data.pixels import to_pixels
from ldm.evaluation.features.extractor import BATCH, Extractor

MOST = 50_000  # images of a reference


def _read(path: Path, facts: tuple[object, ...]) -> Tensor | None:
    """The features of a file that is as it was written; None where there is none."""
    try:
        with safe_open(path, "pt") as file:
            features = file.get_tensor("features")
            if file.metadata()["about"] == _about(features, facts):
                return features
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, TypeError):
        pass  # of an older version, which wrote no sum, or damaged
    say(f"{path} is damaged or of an older version: made again")
    return None


def _about(features: Tensor, facts: tuple[object, ...]) -> str:
    """What a file says of itself: in one entry, as several are written in any order."""
    found = sha256(repr((facts, tuple(features.shape), features.dtype)).encode())
    found.update(features.cpu().contiguous().numpy().data)
    return f"{found.hexdigest()} {facts!r}"


def reference_features(
    extractor: Extractor,
    source: Source,
    resolution: int,
    folder: Path,
    share: Share,
    mirrored: bool = False,
    most: int = MOST,
) -> Tensor:
    """Features (n, D) of at most `most` images out of all, as training crops and resizes them.

    Of a source without bad images, read piece by piece. The file's name is a hash of the images,
    their transform and the extractor with its weights.
    """
    chosen = subset(len(source), most)
    facts = (source.image_fingerprint, digest(chosen), resolution, mirrored, extractor.label)
    path = folder / f"reference_{digest(*facts)[:16]}.safetensors"
    # one process looks, so that all agree on whether there is work to share
    known = share.gather([_read(path, facts) if share.main else None])[0]
    if known is not None:
        return known

    def work(piece: list[int]) -> Tensor:
        read = {i: to_pixels(source.image(chosen[i]), resolution) for i in dict.fromkeys(piece)}
        crops = torch.stack([read[i] for i in piece])
        return extractor(crops.flip(-1) if mirrored else crops)

    features = in_pieces(work, len(chosen), share, BATCH)
    if share.main:
        about = {"about": _about(features, facts)}
        with written(path) as file:
            save_file({"features": features}, file, about)
    return features
