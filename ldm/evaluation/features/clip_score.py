"""CLIP score: how well an image and its prompt agree, by an open_clip model."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.core.errors import UserError
from ldm.evaluation.features.extractor import BATCH, Extractor

DEFAULT = "ViT-B-32/laion2b_s34b_b79k"


def load_open_clip(where: str = "") -> tuple[Any, Any, str]:
    """(model, tokenizer, name) of "MODEL/WEIGHTS", a folder, or "hf-hub:NAME"; with weights.

    Raises UserError where they are not here and cannot be downloaded.
    """
    import open_clip  # with the networks of a hundred papers: where it is used

    where = where or DEFAULT
    if Path(where).is_dir():
        name, weights = f"local-dir:{where}", None
    elif ":" in where:
        name, weights = where, None
    else:
        name, _, tag = where.partition("/")
        weights = tag or None
    logging.disable(logging.ERROR)  # what fails is said once, below
    try:
        model = open_clip.create_model(name, weights, require_pretrained=True)
        return model.eval(), open_clip.get_tokenizer(name), Path(where).name
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the CLIP model {where!r} cannot be loaded ({reason}); give a folder that open_clip "
            "saved, or MODEL/WEIGHTS with a connection to the Hub"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


def open_clip_extractor(where: str = "") -> Extractor:
    """An open_clip model's image embeddings as features."""
    model, _, name = load_open_clip(where)
    return _extractor(model, name)


def _extractor(model: Any, name: str) -> Extractor:
    import open_clip

    seen = open_clip.get_model_preprocess_cfg(model)
    size = seen["size"]
    return Extractor(
        f"open_clip {name}",
        model,
        size if isinstance(size, int) else size[0],
        tuple(seen["mean"]),
        tuple(seen["std"]),
        lambda network, x: network.encode_image(x),
    )


class ClipScore:
    """100 · max(0, cos) between embeddings of an image and of its prompt (Hessel et al. 2021).

    Without their factor of 2.5, as figures for generated images are usually quoted.
    """

    def __init__(self, where: str = "", device: torch.device | str = "cpu") -> None:
        self.model: Any
        self.model, self.tokenizer, name = load_open_clip(where)
        self.model.to(device)
        self.images = _extractor(self.model, name)

    @property
    def label(self) -> str:
        return self.images.label

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings (N, D) of prompts, each distinct one encoded once."""
        distinct = list(dict.fromkeys(prompts))
        device = next(self.model.parameters()).device
        tokens = self.tokenizer(distinct).to(device)
        encoded = torch.cat([self.model.encode_text(part) for part in tokens.split(BATCH)])
        unit = F.normalize(encoded.float().cpu(), dim=1)
        return unit[[distinct.index(prompt) for prompt in prompts]]

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,) of images uint8 (N, 3, H, W) and their prompts."""
        seen = F.normalize(self.images.extract(images), dim=1)
        return 100 * (seen * self.texts(prompts)).sum(1).clamp(min=0)
