"""Pipeline folders: what is read of them, also of anybody's."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers

from ldm.core.errors import UserError
from ldm.core.interval import interval_from_json
from ldm.models.hub import fetched
from ldm.models.weights import chosen, load_part, refuse_a_file, variants
from ldm.ports.model import Model
from ldm.schedulers.spec import Spec
from ldm.schedulers.stock import as_stock_reads
from pipelines.calls.defaults import DEFAULTS_FILE, EMA_LENGTH, STOCK_DEFAULTS, StockDefaults
from pipelines.containers.container import Container
from pipelines.containers.fingerprints import FILES, INDEX, recorded, refuse_lost, refuse_mixed
from pipelines.containers.table import CONTAINERS, part_names


def load(
    name: str | Path,
    *,
    variant: str | None = None,
    sampler: str | None = None,
    given: Mapping[str, Any] | None = None,
    **hub: Any,
) -> tuple[Model, StockDefaults]:
    """The model of a run, a folder or a Hub name, and how it is sampled unless told otherwise.

    Parts that are `given` are not read. `hub` is what fetched() takes. Raises UserError for what
    cannot be found, or is not whole.
    """
    (place, local), given = _place(name, variant, hub), given or {}
    index = _json(place / INDEX)
    if (container := _container(kind := index.get("_class_name"))) is None:
        ours = " and ".join(c.classes[0] for c in CONTAINERS.values())
        raise UserError(f"{name} is a {kind}; this reads {ours} folders")
    refuse_lost(place, index)
    defaults, spec = _own(place, local)
    if (scheduler := given.get("scheduler")) is not None:
        spec = Spec.from_diffusers(scheduler_config(scheduler), sampler)
    elif spec is None:
        spec = _spec(place, index, sampler)
    elif sampler is not None:
        spec = replace(spec, sampler=sampler, sampler_args={})
    known = container.networks()
    asked = _variants(place, variant, [part for part in known if part not in given])
    parts = {
        part: load_part(_class(index, part, known[part]), place / part, v)
        for part, v in asked.items()
    } | {part: given[part] for part in known if part in given}
    tokenizer = given["tokenizer"] if "tokenizer" in given else _tokenizer(place, index)
    return container.model({**parts, "tokenizer": tokenizer}, spec), defaults


def _container(kind: Any) -> Container | None:
    return next((c for c in CONTAINERS.values() if kind in c.classes), None)


def model_of(pipeline: Any) -> Model:
    """The model that a pipeline of diffusers holds; raises UserError where it holds none."""
    for container in CONTAINERS.values():
        names = (*container.networks(), "tokenizer")
        lacks = [part for part in names if getattr(pipeline, part, None) is None]
        if not lacks:
            process = Spec.from_diffusers(scheduler_config(pipeline.scheduler))
            return container.model({part: getattr(pipeline, part) for part in names}, process)
    raise UserError(f"a {type(pipeline).__name__} is no such pipeline: it has no {lacks[0]}")


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
    place = fetched(str(name), ("", *part_names()), variant, **hub)
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


def _class(index: Mapping[str, Any], part: str, known: Mapping[str, Any]) -> Any:
    """The class of a network by the index of its folder: one of these, or of transformers'."""
    name = _named(index, part)
    if known:
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
