"""A command's model: loaded in silence, onto the GPU where there is one."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline

MODEL = "runs/NAME, a pipeline folder, or a name on the Hub"


def loaded(model: str, dtype: str = "float32", variant: str | None = None) -> "TextToImagePipeline":
    """The pipeline of MODEL."""
    import torch

    from pipelines.text_to_image import TextToImagePipeline

    quiet_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path("runs") / model
    name = folder if (folder / "pipeline").is_dir() else model
    return TextToImagePipeline.from_pretrained(
        name, dtype=getattr(torch, dtype), device=device, variant=variant
    )


def quiet_libraries() -> None:
    """Turn off what diffusers and transformers print while they load a model."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
