"""The random numbers of a call: each image has its own, whatever the batch or the device."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ldm.core.brownian import brownian
from ldm.core.errors import UserError
from ldm.diffusion.brownian import Motion
from pipelines.calls.defaults import whole

LEAST, MOST = -(2**63), 2**64 - 1  # what torch takes for a seed
Seeds = int | Sequence[int] | None
Generators = Generator | Sequence[Generator] | None


def generators(seed: Seeds, generator: Generators, count: int) -> list[Generator] | Generator:
    """A generator for each image, or diffusers' one generator for all of them.

    Seed s gives image i the seed s + i, on the CPU, so that neither batch nor device changes it.
    """
    if generator is not None and seed is not None:
        raise UserError("pass seed or generator, not both")
    if isinstance(generator, Generator):
        return generator
    if generator is not None:
        each = list(generator) if isinstance(generator, Iterable) else [generator]
        if strange := [g for g in each if not isinstance(g, Generator)]:
            raise UserError(f"generator is a {type(strange[0]).__name__}: pass torch.Generator()s")
    elif isinstance(seed, Iterable) and getattr(seed, "ndim", True):  # a 0-d array is one number
        each = [_seeded(s) for s in seed]
    else:
        first = torch.randint(2**62, ()).item() if seed is None else _seed(seed)
        each = [_seeded(first + i) for i in range(count)]
    if len(each) != count:
        raise UserError(f"{len(each)} seeds or generators for {count} images")
    return each


def _seed(seed: object) -> int:
    number = whole("seed", seed)
    if not LEAST <= number <= MOST:
        raise UserError(f"seed {number} is not one of torch's, -2**63 to 2**64 - 1")
    return number


def _seeded(seed: object) -> Generator:
    return Generator().manual_seed(_seed(seed))


@dataclass(frozen=True)
class Draws:
    """Standard normal numbers of a call; every use draws anew."""

    source: list[Generator] | Generator
    count: int
    shape: Sequence[int]  # of one image's latents
    device: torch.device

    def __call__(self, step: int = -1) -> Tensor:
        """(count, *shape), float32."""
        return self.of(self.count)

    def of(self, pictures: int) -> Tensor:
        """The draw for as many given pictures, float32: one for each, or one for each image.

        diffusers' one generator draws once for a picture that several images are made of, which
        then have the same; generators and seeds of their own make each image what it is alone.
        """
        if isinstance(self.source, Generator):
            some = (pictures, *self.shape)
            noise = torch.randn(some, generator=self.source, device=self.source.device)
            noise = noise.repeat_interleave(self.count // pictures, 0)
        else:
            each = [
                torch.randn((1, *self.shape), generator=g, device=g.device) for g in self.source
            ]
            noise = torch.cat(each)
        return noise.to(self.device)

    def motion(self) -> Motion:
        """A Brownian motion for each image, after the next number of its generator."""
        source = self.source
        each = [source] * self.count if isinstance(source, Generator) else source
        keys = [int(torch.randint(2**62, (), generator=g, device=g.device)) for g in each]

        def moved(s: float, t: float) -> Tensor:
            """(count, *shape), float32."""
            some = [brownian(self.shape, s, t, key, "sampling") for key in keys]
            return torch.stack(some).to(self.device)

        return moved
