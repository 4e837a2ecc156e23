"""Loading one model of diffusers, by itself or out of a whole pipeline."""

from pathlib import Path
from typing import Any

from ldm.core.errors import UserError
from ldm.models.hub import fetched
from ldm.models.weights import load_part, refuse_a_file


def load_pretrained(
    model_class: Any, path: str | Path, part: str, variant: str | None = None
) -> Any:
    """`model_class` from a folder or Hub name, the model's own or a pipeline's `part`.

    In float32 and evaluation mode; of the weights, `variant` or what chosen() takes. Raises
    UserError where it is in neither place, or not whole.
    """
    local = Path(path).expanduser()
    if not local.is_dir():
        refuse_a_file(path)
        try:
            local = fetched(str(path), ("", part), variant)
        except UserError as error:
            reason = str(error).partition(": ")[2]
            raise UserError(
                f"cannot load {model_class.__name__} from {str(path)!r}: {reason}"
            ) from None
    for place in (local, local / part):
        if (place / "config.json").is_file():
            return load_part(model_class, place, variant).float()
    raise UserError(f"{path} holds neither config.json nor {part}/config.json")
