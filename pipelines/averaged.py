"""A pipeline with other weights of its own training: another length of the EMA, or none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.core.errors import UserError
from ldm.core.files import refuse_unwritable
from ldm.training.post_hoc_ema import reconstruct
from pipelines.calls.defaults import EMA_LENGTH
from pipelines.containers.sd_writer import INDEX, save, unfit
from pipelines.runs.record import SNAPSHOTS, RunRecord
from pipelines.text_to_image import TextToImagePipeline


def _modules(pipe: TextToImagePipeline) -> dict[str, Any]:
    return {"unet": pipe.unet, "text_encoder": pipe.text_encoder}


def weights_of(pipe: TextToImagePipeline) -> dict[str, Tensor]:
    """The networks' tensors by the names they have in training: "unet.…", "text_encoder.…"."""
    return {
        f"{m}.{k}": v
        for m, module in _modules(pipe).items()
        for k, v in module.state_dict().items()
    }


def load_weights(pipe: TextToImagePipeline, tensors: Mapping[str, Tensor]) -> None:
    """The inverse; tensors that are missing stay, a name that fits nothing is an error.

    But for a learned schedule's curve, of which sampling needs no more than the ends.
    """
    known = weights_of(pipe)
    tensors = {k: v for k, v in tensors.items() if not k.startswith("schedule.")}
    assert tensors.keys() <= known.keys(), "weights of another model"
    with torch.no_grad():
        for name, value in tensors.items():
            known[name].copy_(value)


def average_applied(run: str | Path, length: float, out: Path | None = None) -> Path:
    """Export a run's pipeline with the EMA of `length`; returns the folder, RUN/pipeline or `out`.

    Raises UserError where the run has no pipeline or no snapshots yet.
    """
    record = RunRecord.read(run)
    if record.export is None:
        raise UserError(f"{record.folder} has no pipeline yet: train it to the end")
    folder = out or record.export
    refuse_unwritable(folder / INDEX)
    pipe = TextToImagePipeline.from_pretrained(record.export)
    load_weights(pipe, reconstruct(record.folder / SNAPSHOTS, length))
    steps = pipe.defaults.num_inference_steps
    stock = unfit(pipe.vae, pipe.unet, pipe.spec, steps) is None
    save(pipe.components, pipe.spec, pipe.defaults, folder, None, stock, **{EMA_LENGTH: length})
    return folder
