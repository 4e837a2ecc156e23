"""The port of a published folder: which of a stock pipeline's parts are which of a model's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ldm.ports.model import Model
from ldm.schedulers.spec import Spec


class Container(NamedTuple):
    """One kind of stock pipeline, whose folder holds a model.

    Files, checksums, tokenizer and scheduler are alike in all of them; this is what is not.
    """

    pipeline: Any  # diffusers' class, which writes the folder
    nothing: Mapping[str, Any]  # what it is told of parts that no model of this project has
    classes: Sequence[str]  # the pipelines whose folders it reads, by the name in their index
    # parts with weights, and the classes that each may be, by name; none are all of transformers'
    networks: Callable[[], Mapping[str, Mapping[str, Any]]]
    unfit: Callable[[Model], str | None]  # why it cannot hold a model; None where it can
    parts: Callable[[Model], dict[str, Any]]  # a model's modules by the pipeline's names
    model: Callable[[Mapping[str, Any], Spec], Model]  # and back
