"""Pipeline folders: read any Stable Diffusion 1 or 2, write what stock diffusers reads."""

import json
import shutil
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
from diffusers import DDIMScheduler, StableDiffusionPipeline
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from ldm.diffusion.guidance import interval_from_json, interval_to_json
from ldm.errors import UserError
from ldm.scheduler_config import Spec
from pipelines.defaults import DEFAULTS_FILE, EMA_LENGTH, STOCK_DEFAULTS, StockDefaults

if TYPE_CHECKING:
    from pipelines.base import LatentPipeline

# in stock pipelines, which want a scheduler where here a Spec decides
_PLACEHOLDER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "steps_offset": 1,
}
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
            scheduler=DDIMScheduler.from_config(_PLACEHOLDER),
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
        if "guidance_interval" in said:
            said["guidance_interval"] = interval_from_json(said["guidance_interval"])
        return StockDefaults(**said), Spec.from_json(spec) if spec else None
    except (FileNotFoundError, EntryNotFoundError, LocalEntryNotFoundError):
        return STOCK_DEFAULTS, None
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}/{DEFAULTS_FILE} cannot be read: {error}") from None


def as_stock_reads(config: dict[str, Any]) -> dict[str, Any]:
    """A scheduler config as StableDiffusionPipeline takes it, which rewrites two of its keys.

    Whatever the file says, latents are not clipped and grids are offset by 1.
    """
    scheduler = getattr(diffusers, str(config.get("_class_name")), None)
    accepted = signature(scheduler).parameters if scheduler else ()
    rewritten = {"clip_sample": False, "steps_offset": 1}
    return dict(config) | {key: rewritten[key] for key in rewritten if key in accepted}


def refuse_misfits(vae: Any, unet: Any, tokenizer: Any, text_encoder: Any) -> None:
    """Raise UserError, in a sentence, where the parts cannot work together."""
    width, context = text_encoder.config.hidden_size, unet.config.cross_attention_dim
    if getattr(unet.config, "encoder_hid_dim", None) is not None:
        context = unet.config.encoder_hid_dim
    if (projected := getattr(unet.config, "encoder_hid_dim_type", None)) not in (None, "text_proj"):
        raise UserError(
            f"this U-Net wants an input that is no prompt (encoder_hid_dim_type={projected}): not "
            "supported"
        )
    channels, latents = unet.config.in_channels, vae.config.latent_channels
    if width != context:
        raise UserError(
            f"the text encoder is {width} wide and the U-Net attends to {context}: "
            "they are not of the same model"
        )
    if channels != latents:
        hint = "; it is an inpainting U-Net" if channels == 2 * latents + 1 else ""
        raise UserError(
            f"the U-Net takes {channels} channels and the autoencoder has {latents}{hint}"
        )
    if unet.config.out_channels not in (latents, 2 * latents):
        raise UserError(
            f"the U-Net gives {unet.config.out_channels} channels, and {latents} latent channels "
            f"need {latents}, or {2 * latents} with a learned variance"
        )
    for key in (
        "class_embed_type",
        "addition_embed_type",
        "num_class_embeds",
        "time_cond_proj_dim",
    ):
        kind = getattr(unet.config, key, None)
        if kind not in (None, "text"):  # addition_embed_type=text pools what is attended to
            raise UserError(
                f"this U-Net wants an input that is no prompt ({key}={kind}): not supported"
            )
    if len(tokenizer) > text_encoder.config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens and the text encoder knows "
            f"{text_encoder.config.vocab_size}: they are not of the same model"
        )
    positions = getattr(text_encoder.config, "max_position_embeddings", None)
    if positions is not None and tokenizer.model_max_length > positions:
        raise UserError(
            f"the tokenizer's prompts are {tokenizer.model_max_length} tokens long and the text "
            f"encoder reads {positions}: set model_max_length in tokenizer_config.json"
        )


def stock_scheduler(spec: Spec) -> dict[str, Any]:
    """The scheduler config with which stock pipelines sample as `spec` does.

    Raises UserError, with the reason, where there is none.
    """
    config = spec.to_diffusers()
    if (name := config["_class_name"]).startswith("FlowMatch"):
        raise UserError(
            f"stock pipelines cannot run {name}, which samples with {spec.sampler} here; take "
            "another sampler, such as dpmpp_2m, or another grid, to sample there as well"
        )
    written = as_stock_reads(config)
    if Spec.from_diffusers(written) != Spec.from_diffusers(config):
        raise UserError(
            "stock pipelines neither clip latents nor offset their grids by other than 1, and this "
            "scheduler does: it would sample differently there, so it is not exported"
        )
    return written


def export_refusal(spec: Spec) -> str | None:
    """Why stock pipelines cannot sample as `spec` does; None where they can."""
    try:
        stock_scheduler(spec)
    except UserError as error:
        return str(error)
    return None


def save(pipeline: "LatentPipeline", folder: Path, variant: str | None, stock: bool) -> None:
    """Write `pipeline` as StableDiffusionPipeline would; transformers 4 and 5 both read it.

    Without `stock` there is no scheduler in the folder, and a Spec that only this package reads.
    """
    written = stock_scheduler(pipeline.spec) if stock else _PLACEHOLDER
    scheduler = getattr(diffusers, written["_class_name"]).from_config(written)
    whole: Any = StableDiffusionPipeline(
        **pipeline.components,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    whole.save_pretrained(folder, safe_serialization=True, variant=variant)
    said = {k: getattr(pipeline.defaults, k) for k in asdict(STOCK_DEFAULTS)}
    said["guidance_interval"] = interval_to_json(said["guidance_interval"])
    if stock:
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    else:
        shutil.rmtree(folder / "scheduler")
        index = json.loads((folder / "model_index.json").read_text())
        index["scheduler"] = [None, None]  # stock diffusers then stops, rather than sample wrongly
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        said["spec"] = pipeline.spec.to_json()
    (folder / DEFAULTS_FILE).write_text(json.dumps(said, indent=2) + "\n")
    _for_transformers_4(folder)


def _for_transformers_4(folder: Path) -> None:
    """Rewrite what transformers 4 would misread, in ways that transformers 5 reads alike.

    It looks for a CLIP text model's weights under `text_model.` (and warns, and goes on with random
    ones, where they are not), for CLIP's byte pairs in two files of their own, and for fast
    tokenizers under another class name.
    """
    for weights in (folder / "text_encoder").glob("model*.safetensors"):
        tensors = load_file(weights)
        if "embeddings.token_embedding.weight" in tensors:
            prefixed = {f"text_model.{key}": tensor for key, tensor in tensors.items()}
            save_file(prefixed, weights, metadata={"format": "pt"})
    description = folder / "tokenizer" / "tokenizer.json"
    model = json.loads(description.read_text(encoding="utf-8"))["model"]
    if model["type"] == "BPE":
        (folder / "tokenizer" / "vocab.json").write_text(
            json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8"
        )
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (folder / "tokenizer" / "merges.txt").write_text(
            "\n".join(["#version: 0.2", *pairs]) + "\n", encoding="utf-8"
        )
    for path in (folder / "model_index.json", folder / "tokenizer" / "tokenizer_config.json"):
        text = path.read_text()
        path.write_text(text.replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'))
