"""Files that tell whether they are still what was written, by the SHA-256 of what they hold."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm.core.files import sha256, write_json

MANIFEST = "manifest.json"  # of a folder: the sum of each file in it, by name
_SUM = "sha256"  # the key of a sealed file's sum of all its other keys


def manifest_of(folder: Path) -> dict[str, str]:
    """The sums of all files in `folder`, by name."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: sha256(path) for path in files if path.name != MANIFEST}


def read_manifest(folder: Path) -> dict[str, str]:
    """What `folder` was written with. Raises OSError or ValueError where that cannot be read."""
    found = json.loads((folder / MANIFEST).read_bytes())
    sums = found.items() if isinstance(found, dict) else ()
    if not sums or not all(isinstance(v, str) and Path(k).name == k for k, v in sums):
        raise ValueError("it is no list of files")
    return found


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that has a manifest, or None where it is as it was written.

    What lies there and is not in the manifest is nobody's business.
    """
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError):
        return "its manifest is missing or unreadable"
    for name, digest in manifest.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        try:
            if sha256(folder / name) != digest:
                return f"{name} does not match its SHA-256"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Put `value` at `path` as JSON with the sum of what it says, whole or not at all."""
    write_json(path, sealed(value))


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` as JSON gives it back, with the sum of what it says."""
    value = json.loads(json.dumps(value))
    return {**value, _SUM: _sum(value)}


def read_sealed(path: Path) -> dict[str, Any]:
    """The inverse; a file without a sum, as older versions wrote it, is taken at its word.

    Raises OSError where there is none, and ValueError where it is damaged.
    """
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no mapping")
    if value.pop(_SUM, None) not in (None, _sum(value)):
        raise ValueError(f"{path} does not match its sum")
    return value


def is_sealed(path: Path) -> bool:
    """Whether a file that `read_sealed` gave back has a sum at all."""
    return _SUM in json.loads(path.read_bytes())


def _sum(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
