"""Features of real images, computed once: cached under a key of the images and the extractor."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldm.core.files import written
from ldm.data.example import Source, digest
from ldm.data.order import subset
from ldm.data.pixels import to_pixels
from ldm.evaluation.extractor import BATCH, Extractor
from ldm.evaluation.sharing import Share, in_pieces

MOST = 50_000  # images of a reference


def _read(path: Path) -> Tensor | None:
    try:
        return load_file(path)["features"]
    except (OSError, SafetensorError):
        return None  # not made yet, or cut short by a kill


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
    known = share.gather([_read(path) if share.rank == 0 else None])[0]
    if known is not None:
        return known

    def work(piece: list[int]) -> Tensor:
        read = {i: to_pixels(source.image(chosen[i]), resolution) for i in dict.fromkeys(piece)}
        crops = torch.stack([read[i] for i in piece])
        return extractor(crops.flip(-1) if mirrored else crops)

    features = in_pieces(work, len(chosen), share, BATCH)
    if share.rank == 0:
        with written(path) as file:
            save_file({"features": features}, file, {"about": repr(facts)})
    return features
