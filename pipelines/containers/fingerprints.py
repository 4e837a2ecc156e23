"""Which files of a pipeline folder belong together: their SHA-256 sums, in its ldm.json."""

import json
import os
import re
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from ldm.core.errors import UserError
from ldm.core.files import sha256
from pipelines.calls.defaults import DEFAULTS_FILE

INDEX = "model_index.json"  # what makes a folder a pipeline: it goes first and comes last
OWN = "_defaults"  # in the index of a folder that has an ldm.json; private, so skipped by diffusers
FILES = "files"  # their key in ldm.json; folders of other people and of older versions lack it
_VARIANT = re.compile(r"model(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors")
_BY_HAND = ".json"  # what people edit; weights and vocabularies they do not
_VOCABULARIES = ("tokenizer.json", "vocab.json")


def fingerprints(folder: Path) -> dict[str, str]:
    """The sum of every file in `folder`, by its path there, but for ldm.json's own."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / DEFAULTS_FILE)
    names = [path.relative_to(folder).as_posix() for path in paths]
    return dict(zip(names, _sums(paths), strict=True))


def recorded(said: Mapping[str, Any]) -> dict[str, str]:
    """The sums that an ldm.json holds; {} where it has none.

    Raises ValueError where they are no sums of files below the folder.
    """
    found = said.get(FILES, {})
    if not isinstance(found, dict) or not all(_is_below(k, v) for k, v in found.items()):
        raise ValueError(f"{FILES} is no list of files and their sums")
    return found


def earlier(folder: Path, variant: str | None) -> tuple[set[str], dict[str, str]]:
    """What an earlier export left in `folder`: its files that go, and weights of another variant.

    Those stay, with their sums, as diffusers keeps several variants in one folder.
    """
    try:
        known = recorded(json.loads((folder / DEFAULTS_FILE).read_bytes()))
    except (OSError, ValueError, AttributeError):
        return set(), {}
    kept = {
        name: digest
        for name, digest in known.items()
        if (match := _VARIANT.search(name)) and match[1] != variant and (folder / name).is_file()
    }
    return known.keys() - kept.keys(), kept


def refuse_mixed(folder: Path, sums: Mapping[str, str]) -> None:
    """Raise UserError where weights or vocabularies are not those that were exported together.

    Warns where a configuration is another: that is how people change one. Reads every byte, in
    threads: some 1 GB a second.
    """
    paths = {name: folder / name for name in sums if (folder / name).is_file()}
    for name in sums.keys() - paths.keys():
        if not (_VARIANT.search(name) and any((folder / name).parent.glob("*.safetensors"))):
            raise UserError(_refusal(folder, f"{name} is missing"))
    found = zip(paths, _sums(list(paths.values())), strict=True)
    others = [name for name, digest in found if digest != sums[name]]
    for name in others:
        if not name.endswith(_BY_HAND) or name.endswith(_VOCABULARIES):
            raise UserError(_refusal(folder, f"{name} is not the file that came with the others"))
    if others:
        warnings.warn(
            f"{folder}: {', '.join(others)} changed after the export; what is there now holds",
            stacklevel=2,
        )


def refuse_lost(folder: Path, index: Mapping[str, Any]) -> None:
    """Raise UserError where the folder's index says that an ldm.json belongs to it, now gone."""
    if OWN in index and not (folder / DEFAULTS_FILE).is_file():
        raise UserError(_refusal(folder, f"{DEFAULTS_FILE} is missing", OWN, INDEX))


def _refusal(folder: Path, fault: str, key: str = FILES, file: str = DEFAULTS_FILE) -> str:
    return (
        f"{folder} is not as it was exported: {fault}; export it again (the training command does, "
        f"and `ldm export`), or, if that was meant, remove {key!r} from its {file}"
    )


def _is_below(name: object, digest: object) -> bool:
    if not isinstance(name, str) or not isinstance(digest, str):
        return False
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _sums(paths: list[Path]) -> list[str]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(sha256, paths))
