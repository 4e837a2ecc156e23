"""What a user should see before the first step, when a wrong setting still costs nothing."""

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from ldm.conditions.conditioner import Conditioner
from ldm.config import Config, TrainConfig
from ldm.core.text import shown
from ldm.data.captions import all_captions
from ldm.data.order import subset
from ldm.models.networks import kind_of
from ldm.training.examples import Latents
from ldm.training.latent_diffusion import LatentDiffusion
from ldm.training.post_hoc_ema import LENGTHS
from ldm.training.run import Run

BYTES = {"weights": 4, "gradients": 4, "AdamW": 8, "EMA": 4}  # float32, per trained parameter

LOOKED_AT = 1000  # captions


def cut_captions(conditioner: Conditioner, captions: Iterable[Sequence[str]]) -> dict[str, str]:
    """The row that says how many captions are too long for the text encoder; none if none is."""
    distinct = list(dict.fromkeys(text for choices in captions for text in choices))
    some = subset(len(distinct), LOOKED_AT)
    cut = sum(conditioner.truncated(distinct[i]) for i in some)
    told = f"{cut} of {len(some)} lose what lies beyond {conditioner.length} tokens"
    return {"long captions": told} if cut else {}


def budget(
    modules: Mapping[str, nn.Module], train: TrainConfig, images: int, processes: int
) -> dict[str, str]:
    """The rows that follow from sizes alone: parameters, batch, steps per epoch, memory, disk."""
    counts = {
        name: sum(p.numel() for p in module.parameters() if p.requires_grad)
        for name, module in modules.items()
    }
    total = sum(counts.values())
    frozen = sum(p.numel() for m in modules.values() for p in m.parameters()) - total
    averages = len(LENGTHS) if train.ema_snapshots else 0
    state = sum(BYTES.values()) + averages * BYTES["EMA"]
    checkpoint = total * (state - BYTES["gradients"]) + frozen * BYTES["weights"]
    disk = [f"at most {train.keep_checkpoints + 1} checkpoints, "
            f"{(train.keep_checkpoints + 1) * checkpoint / 2**30:.2f} GiB"]  # fmt: skip
    if averages:
        count = -(-train.steps // train.ema_snapshots)
        size = count * averages * total * BYTES["EMA"]
        disk.append(f"{count} EMA snapshots, {size / 2**30:.2f} GiB")
    share = train.batch_size // (processes * train.accumulation)
    bound = "at most " if train.optimizer == "muon" else ""  # which keeps one moment of a matrix
    epochs = train.steps * train.batch_size / images
    return {
        "trained parameters": ", ".join(f"{n} {c / 1e6:.2f} M" for n, c in counts.items()),
        "global batch": f"{train.batch_size} = {processes} process(es) x {train.accumulation} "
        f"accumulation x {share}, {train.mixed_precision} precision",
        "steps per epoch": f"{images / train.batch_size:.1f}; {train.steps} steps are "
        f"{epochs:.1f} epochs",
        "memory": f"{bound}{total * state / 2**30:.2f} GiB of training state per process, and "
        "activations",
        "disk": "; ".join(disk),
    }


def table(rows: Mapping[str, str]) -> str:
    """Two aligned columns."""
    width = max(map(len, rows))
    return "\n".join(f"  {key:<{width}}  {shown(value)}" for key, value in rows.items())


def preflight(
    run: Run,
    trained: LatentDiffusion,
    latents: Mapping[str, Latents],
    epoch: int,
    refusal: str | None,
) -> dict[str, str]:
    """The rows of stage 2; an epoch shows `epoch` images; `refusal` is why it is not exported."""
    train = latents["train"]
    mean, std = (", ".join(f"{x:.2f}" for x in figure.tolist()) for figure in train.statistics)
    diffused, modules = trained.model.codec.name, dict(trained.named_children())
    captions = (" | ".join(choices) for choices in all_captions(train) if choices)
    return {
        **{
            f"{name} images": f"{len(cache)}, {run.rejected[name] + len(cache.quarantine)} rejected"
            for name, cache in latents.items()
        },
        "caption": next(captions, "none: training is unconditional"),
        **cut_captions(trained.model.text, all_captions(train)),
        **({"repeats": f"an epoch shows {epoch} of them"} if epoch > len(train) else {}),
        diffused: f"{tuple(train.shape)} a picture; per channel mean {mean}, std {std}",
        **budget(modules, run.train, epoch, run.share.world),
        kind_of(trained.model.network).name: starting_point(run.config),
        "export": f"for this package alone: {refusal}" if refusal else "stock diffusers",
    }


def starting_point(config: Config) -> str:
    diffusion = config.diffusion
    told = f"predicts {diffusion.prediction} under {diffusion.schedule}"
    if not (trained := config.unet.get("init")):
        return f"{told}; starts from random weights"
    layers = config.unet.get("layers_per_block")
    return f"{told}; starts from {trained}" + (f", grown to layers {layers}" if layers else "")
