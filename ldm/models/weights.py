"""One part of a model out of a folder: which of its files are read, and whether they are whole."""

import json
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldm.core.errors import UserError
from ldm.core.weights import refuse_bad_weights

_PLAIN = "diffusion_pytorch_model|model"  # as diffusers and transformers name them
_PART = r"-\d{5}-of-\d{5}"
_WEIGHTS = re.compile(rf"(?:{_PLAIN})(?:{_PART})?(?:\.(\w+))?(?:{_PART})?\.safetensors")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_PREFERRED = ("fp32", "bf16", "fp16")  # where there is no plain file, and none is asked for
MOST_LAYERS, MOST_UNITS = 1000, 10**7  # that a config.json may ask for in a block, or in anything
# what fuse_qkv_projections leaves beside the projections, which are still there
_IDLE = re.compile(r"\.to_(qkv|kv|added_qkv)\.")
FOR_A_FILE = (
    "it is a single file; make a folder of it with diffusers: "
    "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
)


def refuse_a_file(path: str | Path) -> None:
    """Raise UserError, which says how to convert it, for a checkpoint in place of a folder."""
    if str(path).endswith((".safetensors", *_PICKLED)) or Path(path).is_file():
        raise UserError(f"{path} cannot be loaded: {FOR_A_FILE}")


def variants(names: Iterable[str]) -> set[str | None]:
    """The variants of the weights among a folder's file names; None is the plain one."""
    return {found[1] for name in names if (found := _WEIGHTS.fullmatch(name))}


def chosen(where: str, names: Collection[str], variant: str | None) -> str | None:
    """The variant to read: what is asked for, else the plain one, else the most precise there is.

    Raises UserError where it is not among them, or where there are none but pickled ones.
    """
    there = variants(names)
    if not there:
        pickled = [name for name in names if name.endswith(_PICKLED)]
        raise UserError(
            f"{where} holds its weights as {pickled[0]}, which can run code when it is read, and "
            "only safetensors are: load it with diffusers, save_pretrained() it, and name that "
            "folder"
            if pickled
            else f"{where} holds no weights: there is no file .safetensors of a model in it"
        )
    if variant is None:
        order = (None, *_PREFERRED)
        return min(there, key=lambda v: (order.index(v) if v in order else len(order), v or ""))
    if variant not in there:
        has = ", ".join(sorted(v or "the plain one" for v in there))
        raise UserError(f"{where} has no variant {variant!r}; it has {has}")
    return variant


def belongs(name: str, variant: str | None) -> bool:
    """Whether a file of a part's folder is needed with this variant of its weights."""
    if found := _WEIGHTS.fullmatch(name):
        return found[1] == variant
    return name.endswith((".json", ".txt", ".model"))


def load_part(model_class: Any, folder: Path, variant: str | None = None) -> Any:
    """A model of a diffusers or transformers class from its folder, in evaluation mode.

    Raises UserError, naming them, for tensors that are missing, unexpected, of another shape or
    not finite.
    """
    names = [p.name for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
    if "config.json" not in names:
        raise UserError(f"{folder} holds no {model_class.__name__}: there is no config.json in it")
    picked = chosen(str(folder), names, variant)
    refuse_bad_weights(folder)
    _refuse_giants(folder)
    of_transformers = not hasattr(model_class, "load_config")
    try:
        model, report = model_class.from_pretrained(
            folder,
            variant=picked,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **({"ignore_mismatched_sizes": True} if of_transformers else {}),
        )
    except Exception as error:  # libraries that meet a strange config raise as they please
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"{folder} cannot be loaded as a {model_class.__name__}: {reason}"
        ) from None
    _refuse_holes(folder, model, {key: _names(report[key]) for key in report if "keys" in key})
    return model.eval()


def _refuse_giants(folder: Path) -> None:
    """Raise UserError for a config.json whose network would fill any memory."""
    config = None
    with suppress(ValueError, RecursionError):  # which the library refuses
        config = json.loads((folder / "config.json").read_bytes())
    for key, value in config.items() if isinstance(config, dict) else ():
        most = MOST_LAYERS if "layers" in key else MOST_UNITS
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and abs(number) > most:
                raise UserError(
                    f"{folder / 'config.json'} says {key}={value}, and no network has over {most}"
                )


def _names(keys: Iterable[Any]) -> list[str]:
    return sorted(key if isinstance(key, str) else key[0] for key in keys)


def _refuse_holes(folder: Path, model: nn.Module, report: dict[str, list[str]]) -> None:
    unexpected = [key for key in report["unexpected_keys"] if not _IDLE.search(key)]
    if any(".base_layer." in key for key in unexpected):
        raise UserError(
            f"{folder} was saved with a LoRA that is not fused: in diffusers, call fuse_lora() and "
            "unload_lora_weights() before save_pretrained()"
        )
    if not hasattr(model, "load_config"):  # of a whole CLIP or T5, the other parts are nothing here
        own = {name for name, _ in model.named_children()}
        unexpected = [k for k in unexpected if k.removeprefix("text_model.").split(".")[0] in own]
    told = {
        "is not whole, it lacks": report["missing_keys"],
        "has other tensors than its config.json says, above all": unexpected,
        "has tensors of another shape than its config.json says:": report["mismatched_keys"],
    }
    if not any(told.values()):
        told = {"has weights that are not finite:": _not_finite(model)}
    for what, keys in told.items():
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise UserError(f"{folder} {what} {', '.join(keys[:3])}{more}")


def _not_finite(model: nn.Module) -> list[str]:
    """The names of tensors with a NaN or an infinity: their extremes show it."""
    return [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
        and tensor.numel()
        and not bool(torch.stack(tensor.aminmax()).isfinite().all())
    ]
