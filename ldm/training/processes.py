"""The processes of a run, as the config has them: what Accelerate reads elsewhere is overruled."""

import os
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import (
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    TorchDynamoPlugin,
)

from ldm.config import Config, TrainConfig
from ldm.core.errors import UserError
from ldm.training.tracking import refuse_absent

PATIENCE = timedelta(hours=24)  # for the process that reads all images while the others wait
# what Accelerate does of its own accord where a variable says so, and no config of ours can
_OTHER_WAYS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "sharding (FSDP)",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker",
}


def accelerator_of(config: Config, train: TrainConfig, folder: Path) -> Accelerator:
    """Accelerate's object for this process. Raises UserError for what it or we cannot do.

    Accumulation, precision and compilation are the config's: ACCELERATE_GRADIENT_ACCUMULATION_STEPS
    would divide the loss once more, and ACCELERATE_DYNAMO_BACKEND would compile the network again.
    """
    for variable, what in _OTHER_WAYS.items():
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
            raise UserError(
                f"{variable} asks for {what}, which this training does not do: unset it, or "
                "launch with --multi_gpu"
            )
    if train.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UserError("mixed_precision=fp16 needs a GPU; use bf16 or no on the CPU")
    warnings.filterwarnings("ignore", ".*no supported trackers")  # said below, as an error
    try:
        accelerator = Accelerator(
            mixed_precision=train.mixed_precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_plugin=TorchDynamoPlugin(backend="no"),
            log_with=None if train.tracker == "none" else train.tracker,
            project_dir=folder,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:
        key = "tracker" if train.tracker in str(error) else "mixed_precision"
        reason = " ".join(str(error).split())
        raise UserError(f"train.{key}={getattr(train, key)}: {reason}") from None
    refuse_absent(accelerator, train.tracker)
    if accelerator.device.type == "mps" and config.diffusion.schedule == "learned":
        raise UserError(
            "diffusion.schedule=learned needs float64, which Apple's GPUs lack: set "
            "ACCELERATE_USE_CPU=1, or take another schedule"
        )
    return accelerator
