"""The processes that a launcher started, as Accelerate and the config have them.

What Accelerate reads elsewhere is overruled. It is asked here and not in ldm/core, which knows of
no library but torch: what stands below is handed its Share.
"""

import os
import threading
import time
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    TorchDynamoPlugin,
    gather_object,
    parse_flag_from_env,
)
from torch.distributed import PrefixStore, Store
from torch.distributed.rendezvous import register_rendezvous_handler, rendezvous

from ldm.config import Config, TrainConfig
from ldm.core.errors import UserError, last_words
from ldm.core.files import under_way
from ldm.core.share import ALONE, Share
from ldm.core.watch import Watch
from ldm.training.checkpoint import LOST, goes_on
from ldm.training.tracking import refuse_absent

PATIENCE = timedelta(hours=24)  # for the process that reads all images while the others wait
# Once another process is gone, in seconds: what this one has to end by itself, as it does where an
# exchange fails; and to finish what it writes. torchrun kills it after 30.
SETTLING, WRITING = 5.0, 20.0
_MEETING = "attempt"
# what Accelerate does of its own accord where a variable says so, and no config of ours can
_OTHER_WAYS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "sharding (FSDP)",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or context parallelism",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker",
}


def _met(url: str, **options: Any) -> Iterator[tuple[Store, int, int]]:
    """torch's env://, apart from what the attempts before a restart have left in the store.

    torchrun keeps one store for all attempts: who is first would look for the others where they
    were before (pytorch#135712). Between several nodes' launchers no count of attempts is common.
    """
    for store, rank, world in rendezvous(url.replace(_MEETING, "env", 1), **options):
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        apart = os.environ.get("GROUP_WORLD_SIZE") == "1"
        yield PrefixStore(f"attempt {attempt}", store) if apart else store, rank, world


register_rendezvous_handler(_MEETING, _met)


def processes() -> PartialState:
    """What Accelerate knows of all processes, whether there is an Accelerator or not.

    A launcher's processes on CPUs are several only with ACCELERATE_USE_CPU=1: without it each
    believes that it is the only one. An Accelerator reads that by itself, a PartialState does not.
    """
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    return PartialState(cpu=cpu, timeout=PATIENCE, init_method=f"{_MEETING}://")


def this_share() -> Share:
    """This process of those that `accelerate launch` or torchrun started; else the only one."""
    state = processes()
    if state.num_processes == 1:
        return ALONE
    return Share(state.process_index, state.num_processes, gather_object)


def watched(share: Share, checkpoints: Path) -> Watch:
    """A watch over a run's processes: where one is gone, this one ends too, in a sentence.

    It says from which of the `checkpoints` the run goes on. A launcher kills only the processes
    that it has started itself; and who waits for a GPU's exchange hears no signal.
    """
    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    return Watch(share, host, lambda: _end(checkpoints))


def _end(checkpoints: Path) -> None:
    """End this process from a thread, whatever it is busy with."""
    began, main = time.monotonic(), threading.main_thread()

    def waited(seconds: float) -> bool:
        return time.monotonic() - began > seconds

    while not waited(SETTLING) or (not waited(WRITING) and (under_way() or not main.is_alive())):
        time.sleep(0.1)
    if main.is_alive():  # else it has said so
        last_words(f"error: {LOST}: {goes_on(checkpoints)}", UserError.status)
    os._exit(UserError.status)


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
            kwargs_handlers=[
                InitProcessGroupKwargs(init_method=f"{_MEETING}://", timeout=PATIENCE)
            ],
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
