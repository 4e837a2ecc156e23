"""Safetensors files that somebody gives us: read, or refused in a sentence that names the file."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ldm.core.errors import UserError

HEADER = 32 << 20  # bytes; a model of 100,000 tensors has some 15 MB of names and shapes


def fault(path: Path) -> str | None:
    """What is wrong with the safetensors file at `path`, by its length and its header.

    None where it can be read. Nothing is loaded, and no more than HEADER bytes are looked at.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if size < 8:
            return f"it has {size} bytes, and even an empty one has more: it was cut"
        if header > size - 8:
            return (
                f"it has {size} bytes, and its header alone claims {header}: it was cut, or is "
                "no safetensors file"
            )
        if header > HEADER:
            return f"its header of {header} bytes is larger than any model's"
        with safe_open(path, "pt"):
            return None
    except SafetensorError as error:
        return _reason(error)
    except OSError as error:
        return error.strerror or _reason(error)


def refuse_bad_weights(place: Path) -> None:
    """Raise UserError, naming it, for a file that cannot be read, `place` or one in that folder.

    For places whose weights a library loads: its own errors name no file, or are no sentence.
    """
    for path in sorted(place.glob("*.safetensors")) if place.is_dir() else [place]:
        if reason := fault(path):
            raise UserError(f"{path} cannot be read as safetensors ({reason}): get it again")


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UserError, naming it, where it cannot be read."""
    refuse_bad_weights(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
