"""Pipeline folders: written as stock diffusers reads them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from autoencoder.pixels import Pixels
from ldm.core.errors import UserError
from ldm.core.files import published, write_text, written
from ldm.core.interval import interval_to_json
from ldm.models.networks import kind_of
from ldm.models.unet import UNET
from ldm.schedulers.spec import Spec
from ldm.schedulers.stock import export_refusal, stock_scheduler
from pipelines.calls.defaults import DEFAULTS_FILE, STOCK_DEFAULTS, Defaults
from pipelines.containers.fingerprints import FILES, INDEX, OWN, earlier, fingerprints

# in stock pipelines, which want a scheduler where here a Spec decides
PLACEHOLDER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "steps_offset": 1,
}


def unfit(vae: Any, network: Any, spec: Spec, num_inference_steps: int | None = None) -> str | None:
    """Why a stock pipeline cannot hold this model, or samples otherwise; None where it can."""
    return _misplaced(vae, network) or export_refusal(spec, num_inference_steps)


def _misplaced(vae: Any, network: Any) -> str | None:
    """Which of a model's parts has no place in a stock pipeline, in a sentence."""
    if isinstance(vae, Pixels):
        return "stock Stable Diffusion pipelines have an autoencoder, and this model makes pixels"
    if (kind := kind_of(network)) is not UNET:
        return f"stock Stable Diffusion pipelines hold a U-Net, and this is a {kind.name}"
    return None


def save(
    components: Mapping[str, Any],
    spec: Spec,
    defaults: Defaults,
    folder: Path,
    variant: str | None,
    stock: bool,
    **also: Any,
) -> None:
    """Write a model as StableDiffusionPipeline would; transformers 4 and 5 both read it.

    `components` are its modules by diffusers' names. Without `stock` there is no scheduler in the
    folder, and a Spec that only this package reads. `also` is what else ldm.json says. Until all of
    it is there the folder holds no pipeline.
    """
    steps = defaults.num_inference_steps
    if stock and (reason := _misplaced(components["vae"], components["unet"])):
        raise UserError(reason)
    told = stock_scheduler(spec, steps) if stock else PLACEHOLDER
    scheduler = getattr(diffusers, told["_class_name"]).from_config(told)
    whole: Any = StableDiffusionPipeline(
        **components,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    said = {k: getattr(defaults, k) for k in asdict(STOCK_DEFAULTS)} | also
    said["guidance_interval"] = interval_to_json(said["guidance_interval"])
    ours, other_variants = earlier(folder, variant)
    with published(folder, INDEX, ours) as new:
        whole.save_pretrained(new, safe_serialization=True, variant=variant)
        if stock:
            text = json.dumps(told, indent=2, sort_keys=True) + "\n"
            write_text(new / "scheduler" / "scheduler_config.json", text)
        else:
            shutil.rmtree(new / "scheduler")
            said["spec"] = spec.to_json()
        index = json.loads((new / INDEX).read_text()) | {OWN: DEFAULTS_FILE}
        if not stock:
            index["scheduler"] = [None, None]  # stock diffusers then stops, not to sample wrongly
        write_text(new / INDEX, json.dumps(index, indent=2) + "\n")
        _same_each_time(new)
        _for_transformers_4(new)
        said[FILES] = {**other_variants, **fingerprints(new)}
        write_text(new / DEFAULTS_FILE, json.dumps(said, indent=2) + "\n")


def _same_each_time(folder: Path) -> None:
    """Take out of the JSON what is no part of the model: where it lay, and what was last asked.

    A tokenizer keeps the padding and truncation of its last call, and is told them at every call.
    """
    for path in [*folder.glob("*.json"), *folder.glob("*/*.json")]:
        said = json.loads(path.read_text(encoding="utf-8"))
        for key in ("_name_or_path", "is_local", "local_files_only"):
            said.pop(key, None)
        if path.name == "tokenizer.json":
            said |= {"truncation": None, "padding": None}
        write_text(path, json.dumps(said, indent=2, ensure_ascii=False) + "\n")


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
            with written(weights) as file:
                save_file(prefixed, file, metadata={"format": "pt"})
    description = folder / "tokenizer" / "tokenizer.json"
    model = json.loads(description.read_text(encoding="utf-8"))["model"]
    if model["type"] == "BPE":
        vocabulary = json.dumps(model["vocab"], ensure_ascii=False)
        write_text(folder / "tokenizer" / "vocab.json", vocabulary)
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        merges = "\n".join(["#version: 0.2", *pairs]) + "\n"
        write_text(folder / "tokenizer" / "merges.txt", merges)
    for path in (folder / INDEX, folder / "tokenizer" / "tokenizer_config.json"):
        text = path.read_text(encoding="utf-8")
        write_text(path, text.replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'))
