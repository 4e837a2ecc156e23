"""The processes that a launcher started, as Accelerate and the config have them.

What Accelerate reads elsewhere is overruled. It is asked here and not in ldm/core, which knows of
no library but torch: what stands below is handed its Share.
"""

import os
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    TorchDynamoPlugin,
    gather_object,
    parse_flag_from_env,
)

from ldm.config import Config, TrainConfig
from ldm.core.errors import UserError
from ldm.core.share import ALONE, Share
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


def processes() -> PartialState:
    """What Accelerate knows of all processes, whether there is an Accelerator or not.

    A launcher's processes on CPUs are several only with ACCELERATE_USE_CPU=1: without it each
    believes that it is the only one. An Accelerator reads that by itself, a PartialState does not.
    """
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=PATIENCE)


def this_share() -> Share:
    """This process of those that `accelerate launch` or torchrun started; else the only one."""
    state = processes()
    if state.num_processes == 1:
        return ALONE
    return Share(state.process_index, state.num_processes, gather_object)


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
