"""Pipeline folders: written as stock diffusers reads them."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from ldm.diffusion.guidance import interval_to_json
from ldm.schedulers.stock import export_refusal as export_refusal
from ldm.schedulers.stock import stock_scheduler
from pipelines.defaults import DEFAULTS_FILE, STOCK_DEFAULTS

if TYPE_CHECKING:
    from pipelines.base import LatentPipeline

# in stock pipelines, which want a scheduler where here a Spec decides
PLACEHOLDER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "steps_offset": 1,
}


def save(pipeline: "LatentPipeline", folder: Path, variant: str | None, stock: bool) -> None:
    """Write `pipeline` as StableDiffusionPipeline would; transformers 4 and 5 both read it.

    Without `stock` there is no scheduler in the folder, and a Spec that only this package reads.
    """
    written = stock_scheduler(pipeline.spec) if stock else PLACEHOLDER
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
