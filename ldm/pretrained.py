"""Loading one model of diffusers, by itself or out of a whole pipeline."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ldm.core.weights import refuse_bad_weights
from ldm.errors import UserError


def load_pretrained(model_class: Any, path: str | Path, part: str) -> Any:
    """`model_class` from a folder or Hub name, the model's own or a pipeline's `part`.

    In float32 and evaluation mode. Raises UserError where it is in neither place, or not whole.
    """
    local = Path(path)
    places: tuple[str | None, ...] = (None, part)
    if local.is_dir():
        places = tuple(p for p in places if (local / (p or ".") / "config.json").is_file())
        if not places:
            raise UserError(f"{path} holds neither config.json nor {part}/config.json")
        for place in places:
            refuse_bad_weights(local / (place or "."))
    failures = []
    for place in places:
        try:
            model = model_class.from_pretrained(path, subfolder=place)
        except (OSError, ValueError, SafetensorError) as error:
            failures.append(str(error).strip().splitlines()[0])
            continue
        if absent := [name for name, p in model.named_parameters() if p.is_meta]:
            raise UserError(
                f"{path} lacks weights of a {model_class.__name__}, such as {absent[0]}"
            )
        return model.float()
    reasons = f"; nor its {part}: ".join(failures)
    raise UserError(f"cannot load {model_class.__name__} from {str(path)!r}: {reasons}")
