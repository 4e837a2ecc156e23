"""Stable Diffusion's folder: what is read of it, also of anybody's."""

import json
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler, StableDiffusionPipeline
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from ldm.diffusion.guidance import interval_from_json
from ldm.errors import UserError
from ldm.scheduler_config import Spec
from ldm.schedulers.stock import as_stock_reads
from pipelines.containers.fingerprints import FILES, recorded, refuse_mixed
from pipelines.defaults import DEFAULTS_FILE, EMA_LENGTH, STOCK_DEFAULTS, StockDefaults
from pipelines.folder import PLACEHOLDER

# The same parts under another class; an inpainting U-Net has more input channels and is told so.
CLASSES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
)


def load(
    name: str | Path,
    *,
    variant: str | None,
    revision: str | None,
    token: str | None,
) -> tuple[Any, Any, Any, Any, Spec, StockDefaults]:
    """(vae, unet, tokenizer, text_encoder, spec, defaults) of a run, folder or Hub name.

    In diffusers' default dtype: its argument for another has changed names between releases.
    """
    place = Path(name)
    if not (place / "model_index.json").is_file() and (place / "pipeline").is_dir():
        place = place / "pipeline"
    source = str(place) if place.is_dir() else str(name)
    if place.is_dir() and not (place / "model_index.json").is_file():
        raise UserError(f"{source} holds no pipeline: there is no model_index.json in it")
    hub = {"revision": revision, "token": token}
    try:
        kind = StableDiffusionPipeline.load_config(source, **hub)["_class_name"]
        if kind not in CLASSES:
            raise UserError(f"{source} is a {kind}; this reads {' and '.join(CLASSES[:1])} folders")
        defaults, spec = _own(place, source, hub)
        if spec is None:
            scheduler = DDIMScheduler.load_config(source, subfolder="scheduler", **hub)
        stock = StableDiffusionPipeline.from_pretrained(
            source,
            variant=variant,
            use_safetensors=True,
            scheduler=DDIMScheduler.from_config(PLACEHOLDER),
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
            **hub,
        )
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{source} cannot be loaded as a pipeline: {reason}") from None
    spec = spec or Spec.from_diffusers(as_stock_reads(scheduler))
    return stock.vae, stock.unet, stock.tokenizer, stock.text_encoder, spec, defaults


def _own(place: Path, source: str, hub: dict[str, Any]) -> tuple[StockDefaults, Spec | None]:
    """What the folder says to this package alone; a Spec where no diffusers scheduler has it."""
    try:
        path = place / DEFAULTS_FILE
        if not place.is_dir():
            path = Path(hf_hub_download(source, DEFAULTS_FILE, **hub))
        said = json.loads(path.read_text())
        spec = said.pop("spec", None)
        said.pop(EMA_LENGTH, None)
        if place.is_dir():  # the Hub's client has checked what it brought
            refuse_mixed(place, recorded(said))
        said.pop(FILES, None)
        if "guidance_interval" in said:
            said["guidance_interval"] = interval_from_json(said["guidance_interval"])
        return StockDefaults(**said), Spec.from_json(spec) if spec else None
    except (FileNotFoundError, EntryNotFoundError, LocalEntryNotFoundError):
        return STOCK_DEFAULTS, None
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}/{DEFAULTS_FILE} cannot be read: {error}") from None
