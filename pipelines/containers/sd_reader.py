"""Stable Diffusion's folder: what is read of it, also of anybody's."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import transformers
from diffusers.models import AsymmetricAutoencoderKL, AutoencoderKL

from autoencoder.pixels import Pixels
from ldm.core.errors import UserError
from ldm.core.interval import interval_from_json
from ldm.models.hub import fetched
from ldm.models.networks import KINDS
from ldm.models.unet import whole_side
from ldm.models.weights import chosen, load_part, refuse_a_file, variants
from ldm.schedulers.spec import Spec
from ldm.schedulers.stock import as_stock_reads
from pipelines.calls.defaults import DEFAULTS_FILE, EMA_LENGTH, STOCK_DEFAULTS, StockDefaults
from pipelines.containers.fingerprints import FILES, INDEX, recorded, refuse_lost, refuse_mixed

# The same parts under another class; an inpainting U-Net has more input channels and is told so.
CLASSES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionPAGPipeline",
)
NETWORKS = ("vae", "unet", "text_encoder")
FOLDERS = ("", *NETWORKS, "tokenizer", "scheduler")
_KNOWN: dict[str, dict[str, Any]] = {
    "vae": {c.__name__: c for c in (AutoencoderKL, AsymmetricAutoencoderKL, Pixels)},
    "unet": {kind.model.__name__: kind.model for kind in KINDS.values()},
}


class Parts(NamedTuple):
    """What a pipeline is made of, in its constructor's order."""

    vae: Any
    unet: Any
    tokenizer: Any
    text_encoder: Any
    spec: Spec
    defaults: StockDefaults


def load(
    name: str | Path,
    *,
    variant: str | None = None,
    sampler: str | None = None,
    given: Mapping[str, Any] | None = None,
    **hub: Any,
) -> Parts:
    """The parts of a run, a folder or a Hub name; those `given` are not read, but for a scheduler.

    `hub` is what fetched() takes. Raises UserError for what cannot be found, or is not whole.
    """
    (place, local), given = _place(name, variant, hub), given or {}
    index = _json(place / INDEX)
    if (kind := index.get("_class_name")) not in CLASSES:
        raise UserError(f"{name} is a {kind}; this reads {CLASSES[0]} folders")
    refuse_lost(place, index)
    defaults, spec = _own(place, local)
    if (scheduler := given.get("scheduler")) is not None:
        spec = Spec.from_diffusers(scheduler_config(scheduler), sampler)
    elif spec is None:
        spec = _spec(place, index, sampler)
    elif sampler is not None:
        spec = replace(spec, sampler=sampler, sampler_args={})
    asked = _variants(place, variant, [part for part in NETWORKS if part not in given])
    parts = {
        part: given[part] if part in given else load_part(_class(index, part), place / part, v)
        for part, v in asked.items()
    } | {part: given[part] for part in NETWORKS if part in given}
    if (size := parts["unet"].config.sample_size) is not None:  # older exports have a list
        parts["unet"].register_to_config(sample_size=whole_side(size))
    return Parts(
        parts["vae"],
        parts["unet"],
        given["tokenizer"] if "tokenizer" in given else _tokenizer(place, index),
        parts["text_encoder"],
        spec,
        defaults,
    )


def scheduler_config(scheduler: Any) -> dict[str, Any]:
    """The config of a diffusers scheduler object, as a file would have it."""
    try:
        return {**scheduler.config, "_class_name": type(scheduler).__name__}
    except (AttributeError, TypeError):
        raise UserError(
            f"scheduler is a {type(scheduler).__name__}: pass one of diffusers' schedulers"
        ) from None


def _place(name: str | Path, variant: str | None, hub: Mapping[str, Any]) -> tuple[Path, bool]:
    """The folder that holds the pipeline, fetched where it is a Hub name; whether it was here."""
    place = Path(name).expanduser()
    if not (place / INDEX).is_file() and (place / "pipeline").is_dir():
        place = place / "pipeline"
    if place.is_dir():
        if not (place / INDEX).is_file():
            raise UserError(f"{place} holds no pipeline: there is no {INDEX} in it")
        return place, True
    refuse_a_file(name)
    place = fetched(str(name), FOLDERS, variant, **hub)
    if not (place / INDEX).is_file():
        raise UserError(f"{name} cannot be loaded as a pipeline: it has no {INDEX}")
    return place, False


def _variants(place: Path, variant: str | None, parts: list[str]) -> dict[str, str | None]:
    """The variant of each network: what is asked for, where at least one of them has it."""
    names = {p: [f.name for f in (place / p).glob("*")] for p in parts}
    found = {part: variants(names[part]) for part in parts}
    if variant is not None and not any(variant in there for there in found.values()):
        chosen(str(place), [name for part in parts for name in names[part]], variant)  # refuses
    return {part: variant if variant in found[part] else None for part in parts}


def _class(index: Mapping[str, Any], part: str) -> Any:
    """The class of a network by the index of its folder."""
    name = _named(index, part)
    known = _KNOWN.get(part)
    if known is not None:
        if name not in known:
            raise UserError(f"its {part} is a {name}, and this reads {' and '.join(known)}")
        return known[name]
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise UserError(f"its {part} is a {name}, which transformers does not have")
    return found


def _named(index: Mapping[str, Any], part: str) -> str:
    entry = index.get(part)
    if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)):
        raise UserError(f"{INDEX} names no class of its {part}, but {json.dumps(entry)}")
    return entry[1]


def _tokenizer(place: Path, index: Mapping[str, Any]) -> Any:
    name = _named(index, "tokenizer")
    found: Any = getattr(transformers, name, transformers.AutoTokenizer)
    try:
        return found.from_pretrained(place / "tokenizer", local_files_only=True)
    except Exception as error:  # of damaged files, whatever its parsers in Rust and Python raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{place}/tokenizer cannot be loaded as a {name}: {reason}") from None


def _spec(place: Path, index: Mapping[str, Any], sampler: str | None) -> Spec:
    """What the folder's scheduler says, read as stock pipelines read it."""
    config = _json(place / "scheduler" / "scheduler_config.json")
    if isinstance(entry := index.get("scheduler"), list) and isinstance(entry[-1], str):
        config["_class_name"] = entry[-1]  # as stock pipelines have it, whatever the file says
    return Spec.from_diffusers(as_stock_reads(config), sampler)


def _own(place: Path, local: bool) -> tuple[StockDefaults, Spec | None]:
    """What the folder says to this package alone; a Spec where no diffusers scheduler has it."""
    if not (path := place / DEFAULTS_FILE).is_file():
        return STOCK_DEFAULTS, None
    said = _json(path)
    try:
        sums, spec = recorded(said), said.pop("spec", None)
        for key in (FILES, EMA_LENGTH):
            said.pop(key, None)
        if "guidance_interval" in said:
            said["guidance_interval"] = interval_from_json(said["guidance_interval"])
        own = StockDefaults(**said), Spec.from_json(spec) if spec else None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if local:  # the Hub's client has checked what it brought
        refuse_mixed(place, sums)
    return own


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} cannot be loaded: there is no {path.name} in it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} cannot be read: it is no JSON object")
    return found
