"""The random numbers of a call: each image has its own, whatever the batch or the device."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ldm.diffusion.samplers import Noise
from ldm.errors import UserError


def generators(
    seed: int | Sequence[int] | None,
    generator: Generator | Sequence[Generator] | None,
    count: int,
) -> list[Generator] | Generator:
    """A generator for each image, or diffusers' one generator for all of them.

    Seed s gives image i the seed s + i, on the CPU, so that neither batch nor device changes it.
    """
    if generator is not None and seed is not None:
        raise UserError("pass seed or generator, not both")
    if isinstance(generator, Generator):
        return generator
    if generator is not None:
        each = list(generator)
    elif isinstance(seed, Sequence):
        each = [_seeded(s) for s in seed]
    else:
        first = torch.randint(2**62, ()).item() if seed is None else seed
        each = [_seeded(int(first) + i) for i in range(count)]
    if len(each) != count:
        raise UserError(f"{len(each)} seeds or generators for {count} images")
    return each


def _seeded(seed: int) -> Generator:
    try:
        return Generator().manual_seed(seed)
    except (RuntimeError, ValueError) as error:  # whichever torch's release raises
        raise UserError(f"seed {seed} is not one of torch's, -2**63 to 2**64 - 1") from error


def draws(
    source: list[Generator] | Generator, count: int, shape: Sequence[int], device: torch.device
) -> Noise:
    """A function whose every call draws (count, *shape) standard normal numbers, float32."""

    def draw(step: int = -1) -> Tensor:
        if isinstance(source, Generator):
            noise = torch.randn((count, *shape), generator=source, device=source.device)
        else:
            each = [torch.randn((1, *shape), generator=g, device=g.device) for g in source]
            noise = torch.cat(each)
        return noise.to(device)

    return draw
