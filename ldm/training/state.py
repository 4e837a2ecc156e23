"""All that a training run must remember, to and from a checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.core.errors import UserError
from ldm.core.files import write_json
from ldm.core.share import Share
from ldm.training.checkpoint import Checkpoint, load_newest, save_checkpoint
from ldm.training.facts import refuse_other_facts

SAVED = "saved.json"  # beside the checkpoints: the step of the last one that was written


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors: "3.exp_avg" is that of its third parameter."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
    }


def load_optimizer_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of optimizer_tensors; the hyperparameters stay the optimizer's own.

    A state takes its parameter's memory layout again: a file knows none, and fused kernels walk
    through parameter and state in step. Raises ValueError where shapes differ.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        if value.ndim:  # not a count of steps
            if value.shape != like.shape:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)} where {tuple(like.shape)} is trained"
                )
            value = torch.empty_like(like, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


class Average(Protocol):
    """An average of weights, such as the EMA."""

    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


class TrainingState:
    """Modules, their optimizers, averages of the weights and the fp16 scaler of one run.

    `facts`, named as a sentence would name them, are what the weights mean nothing without, such as
    the autoencoder whose latents they are for: JSON, and the same at every resume. `data` are
    fingerprints of what may change between sessions; `changes` then says, once resumed, which did.
    `loop` is what else the loop remembers, as JSON: it comes back as it was last saved.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        share: Share,
        folder: Path,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        averages: Mapping[str, Average],
        facts: Mapping[str, Any],
        data: Mapping[str, str] | None = None,
    ) -> None:
        self.accelerator, self.share = accelerator, share
        self.folder, self.averages = folder, averages
        self.facts = json.loads(json.dumps(facts))
        self.data, self.changes = dict(data or {}), ""
        self.loop: dict[str, Any] = {}
        self.modules = {k: accelerator.unwrap_model(m) for k, m in modules.items()}
        self.optimizers = optimizers

    def save(self, step: int, keep: int) -> None:
        """Write a checkpoint after `step` steps; every process returns once it is there."""
        if self.share.main:
            tensors = {f"model.{k}": m.state_dict() for k, m in self.modules.items()}
            tensors |= {f"optimizer.{k}": optimizer_tensors(o) for k, o in self.optimizers.items()}
            tensors |= {name: average.state_dict() for name, average in self.averages.items()}
            scaler = self.accelerator.scaler
            state: dict[str, Any] = {"scaler": scaler.state_dict() if scaler else None}
            state |= {"facts": self.facts, "data": self.data, "loop": self.loop}
            save_checkpoint(self.folder, step, tensors, state, keep)
            write_json(self.folder.with_name(SAVED), {"step": step})
        self.share.wait()

    def resume(self) -> int:
        """Take up the newest whole checkpoint; returns its step, 0 where there is none.

        Raises UserError where it does not fit the config's models, or was made of other facts, and
        where there were checkpoints and are none any more.
        """
        checkpoint = load_newest(self.folder)
        if checkpoint is None:
            if (saved := self.folder.with_name(SAVED)).exists():
                raise UserError(
                    f"this run saved checkpoints, as {saved} says, and there is none in "
                    f"{self.folder} any more: put one back under its own name, step_NNNNNNN, or "
                    f"remove {self.folder.parent} to begin anew at step 0"
                )
            return 0
        before = checkpoint.state.get("facts", {})
        refuse_other_facts(self.folder, before, {**dict.fromkeys(before), **self.facts})
        try:
            self._load(checkpoint)
        except UserError:
            raise
        except (LookupError, RuntimeError, ValueError) as error:
            raise UserError(
                f"the checkpoints in {self.folder} are of another model than this config describes "
                f"({str(error).splitlines()[0]}); restore the config or give another name=..."
            ) from error
        self.loop = checkpoint.state.get("loop", {})  # older versions had none
        then = checkpoint.state.get("data", {})
        changed = [name for name, now in self.data.items() if then.get(name, now) != now]
        if changed:
            self.changes = f"{changed[0]} have changed since step {checkpoint.step}"
        return checkpoint.step

    def _load(self, checkpoint: Checkpoint) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(checkpoint.tensors[f"model.{name}"])
        for name, optimizer in self.optimizers.items():
            load_optimizer_tensors(optimizer, checkpoint.tensors[f"optimizer.{name}"])
        for name, average in self.averages.items():
            average.load_state_dict(checkpoint.tensors[name])
        if self.accelerator.scaler is not None and checkpoint.state["scaler"]:
            self.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
