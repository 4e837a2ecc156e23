"""Pipelines: what a user calls. Imported lazily, so that the `ldm` command starts at once."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.image_to_image import ImageToImagePipeline
    from pipelines.inpaint import InpaintPipeline
    from pipelines.text_to_image import TextToImagePipeline

__all__ = ["ImageToImagePipeline", "InpaintPipeline", "TextToImagePipeline"]
_HOMES = {
    "ImageToImagePipeline": "image_to_image",
    "InpaintPipeline": "inpaint",
    "TextToImagePipeline": "text_to_image",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pipelines.{_HOMES[name]}"), name)
