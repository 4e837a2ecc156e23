"""Real training processes for tests: started fast, killed on cue, or several at once."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from ldm.config import load_config


def context(method: str | None = None):
    """multiprocessing's, of the method that this machine needs unless one is given."""
    made = multiprocessing.get_context(method or start_method())
    if made.get_start_method() == "forkserver":  # it imports torch and the rest once
        made.set_forkserver_preload(["train_ldm", "train_autoencoder", "tests.warmed"])
    return made


def start_method() -> str:
    """How processes begin: forked from a server that has imported everything, or all anew.

    Importing diffusers counts the GPUs, and no fork of a process that has may use one: CUDA then
    says that it cannot be initialised again. So where there is a GPU each process is spawned.
    """
    import torch

    return "spawn" if torch.cuda.is_available() else "forkserver"


def _train(
    script: str, yaml: str, overrides: list[str], environment: dict, before: Callable | None
):
    os.environ.update(environment)
    if before is not None:
        before()
    config = load_config(yaml, overrides)
    raise SystemExit(import_module(script).train(config))


def start(
    script: str,
    yaml: str | Path,
    overrides: list[str],
    before: Callable[[], None] | None = None,
    method: str | None = None,
    **environment: str,
):
    """A process that trains; `before` runs in it first (a module-level function).

    `method` is multiprocessing's; what the machine needs unless given.
    """
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    process = context(method).Process(
        target=_train, args=(script, str(yaml), overrides, environment, before)
    )
    process.start()
    return process


def run(script: str, yaml: str | Path, overrides: list[str], before=None) -> int:
    """Train to the end of the process; its exit status (-9 where it was killed)."""
    process = start(script, yaml, overrides, before)
    process.join()
    return process.exitcode


def run_distributed(
    script: str, yaml: str | Path, overrides: list[str], world: int, before=None
) -> list[int]:
    """The same on `world` CPU processes, as torchrun would start them."""
    processes = [start(script, yaml, overrides, before, **one) for one in places(world)]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def places(world: int) -> list[dict[str, str]]:
    """The environments of `world` processes on CPUs that belong together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    shared["ACCELERATE_USE_CPU"] = "1"
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **shared} for rank in range(world)]
