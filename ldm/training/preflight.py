"""What a user should see before the first step, when a wrong setting still costs nothing."""

from collections.abc import Mapping

from torch import nn

from ldm.config import TrainConfig

BYTES = {"weights": 4, "gradients": 4, "AdamW": 8, "EMA": 4}  # float32, per trained parameter


def trained_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def budget(parameters: int, train: TrainConfig, images: int, processes: int) -> dict[str, str]:
    """The rows that follow from sizes alone: parameters, batch, steps per epoch, memory, disk."""
    per_process = train.batch_size // (processes * train.accumulation)
    checkpoint = parameters * (BYTES["weights"] + BYTES["AdamW"] + BYTES["EMA"])
    return {
        "trained parameters": f"{parameters / 1e6:.2f} M",
        "global batch": f"{train.batch_size} = {processes} process(es) x "
        f"{train.accumulation} accumulation x {per_process}",
        "steps per epoch": f"{images / train.batch_size:.1f} "
        f"({train.steps * train.batch_size / images:.1f} epochs in {train.steps} steps)",
        "memory of the training state": f"{parameters * sum(BYTES.values()) / 2**30:.2f} GiB, "
        "and activations",
        "disk": f"{train.keep_checkpoints + 1} checkpoints of {checkpoint / 2**30:.2f} GiB at most",
    }


def table(rows: Mapping[str, str]) -> str:
    """Two aligned columns."""
    width = max(map(len, rows))
    return "\n".join(f"  {key:<{width}}  {value}" for key, value in rows.items())
