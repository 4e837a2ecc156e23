"""Pipeline folders: written as stock diffusers reads them."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
from safetensors.torch import load_file, save_file

from ldm.core.errors import UserError
from ldm.core.files import published, write_text, written
from ldm.core.interval import interval_to_json
from ldm.ports.model import Model
from ldm.schedulers.stock import export_refusal, stock_scheduler
from pipelines.calls.defaults import DEFAULTS_FILE, STOCK_DEFAULTS, Defaults
from pipelines.containers.container import Container
from pipelines.containers.fingerprints import FILES, INDEX, OWN, earlier, fingerprints
from pipelines.containers.table import container_of


def unfit(model: Model, num_inference_steps: int | None = None) -> str | None:
    """Why no stock pipeline can hold this model, or samples as it; None where one can."""
    return container_of(model)[1] or export_refusal(model.process, num_inference_steps)


def save(
    model: Model,
    defaults: Defaults,
    folder: Path,
    variant: str | None = None,
    stock: bool = True,
    also: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write a model as a stock pipeline would; transformers 4 and 5 both read it.

    Without `stock` there is no scheduler in the folder, and a Spec that only this package reads.
    `also` is what else ldm.json says. Until all of it is there the folder holds no pipeline. Raises
    UserError with the reason where a stock pipeline is wanted and none can hold the model.
    """
    steps, spec = defaults.num_inference_steps, model.process
    container, reason = container_of(model)
    if stock and reason:
        raise UserError(reason)
    told = stock_scheduler(spec, steps) if stock else None
    said = {k: getattr(defaults, k) for k in asdict(STOCK_DEFAULTS)} | dict(also)
    said["guidance_interval"] = interval_to_json(said["guidance_interval"])
    ours, other_variants = earlier(folder, variant)
    with published(folder, INDEX, ours) as new:
        if told is None:
            for name, part in (parts := container.parts(model)).items():
                options = {"variant": variant} if name in container.networks() else {}
                part.save_pretrained(new / name, **options)
            index = _index(container, parts)
            said["spec"] = spec.to_json()
        else:
            scheduler = getattr(diffusers, told["_class_name"]).from_config(told)
            parts = {**container.parts(model), "scheduler": scheduler, **container.nothing}
            container.pipeline(**parts).save_pretrained(new, variant=variant)
            text = json.dumps(told, indent=2, sort_keys=True) + "\n"
            write_text(new / "scheduler" / "scheduler_config.json", text)
            index = json.loads((new / INDEX).read_text())
        write_text(new / INDEX, json.dumps({**index, OWN: DEFAULTS_FILE}, indent=2) + "\n")
        _same_each_time(new)
        _for_transformers_4(new)
        said[FILES] = {**other_variants, **fingerprints(new)}
        write_text(new / DEFAULTS_FILE, json.dumps(said, indent=2) + "\n")


def _index(container: Container, parts: Mapping[str, Any]) -> dict[str, Any]:
    """What a pipeline would write of its parts; it names no scheduler.

    So stock diffusers stops there, and does not sample wrongly.
    """
    classes = {
        k: [type(p).__module__.partition(".")[0], type(p).__name__] for k, p in parts.items()
    }
    return {
        "_class_name": container.pipeline.__name__,
        "_diffusers_version": diffusers.__version__,
        **{k: [None, None] if v is None else v for k, v in container.nothing.items()},
        "scheduler": [None, None],
        **classes,
    }


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
