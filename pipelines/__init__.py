"""Pipelines: what a user calls. Imported lazily, so that the `ldm` command starts at once."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.text_to_image import TextToImagePipeline

__all__ = ["TextToImagePipeline"]


def __getattr__(name: str) -> Any:
    if name == "TextToImagePipeline":
        from pipelines.text_to_image import TextToImagePipeline

        return TextToImagePipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
