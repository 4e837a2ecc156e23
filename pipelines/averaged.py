"""A model with other weights of its own training: another length of the EMA, or none."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ldm.core.errors import UserError
from ldm.core.files import refuse_unwritable
from ldm.ports.model import Model
from ldm.training.post_hoc_ema import reconstruct
from pipelines.calls.defaults import EMA_LENGTH
from pipelines.containers.reader import INDEX, load
from pipelines.containers.writer import save, unfit
from pipelines.runs.record import SNAPSHOTS, RunRecord


def weights_of(model: Model) -> dict[str, Tensor]:
    """The tensors that training has, by their names there: "unet.…", "text_encoder.…"."""
    return {
        f"{m}.{k}": v for m, module in model.trained.items() for k, v in module.state_dict().items()
    }


def load_weights(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """The inverse; tensors that are missing stay, a name that fits nothing is an error.

    But for a learned schedule's curve, of which sampling needs no more than the ends.
    """
    known = weights_of(model)
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
    model, defaults = load(record.export)
    load_weights(model, reconstruct(record.folder / SNAPSHOTS, length))
    stock = unfit(model, defaults.num_inference_steps) is None
    save(model, defaults, folder, stock=stock, also={EMA_LENGTH: length})
    return folder
