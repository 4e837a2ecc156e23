"""How likely held-out images are under the model, in bits per latent dimension.

The evidence lower bound by term and by noise level says where the bits go; the probability flow's
exact density, on a few images, says how loose the bound is. Both are of the latents, a continuous
density: they compare models that share an autoencoder, and may be negative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.core import keyed
from ldm.core.share import MICRO_BATCH, Share, pieces
from ldm.diffusion.likelihood import Elbo, bits_per_dim, elbo, ode_log_prob
from ldm.diffusion.plane import Denoiser, Level
from ldm.diffusion.schedules import Schedule
from ldm.evaluation.measurements import Measurement, mean_measurement
from ldm.evaluation.records import Record

Bound = Callable[[list[int]], Denoiser]  # the denoiser conditioned as the examples `indices` are


@dataclass(frozen=True)
class Bits:
    """The bound of N examples by term, least noisy step last."""

    times: list[float]  # (n - 1,) where each step starts, noisiest first
    prior: Tensor  # (N,)
    steps: Tensor  # (n - 1, N)
    reconstruction: Tensor  # (N,)

    def measurements(self) -> list[Measurement]:
        """The total and its three terms."""
        between = self.steps.sum(0)
        terms = {
            "bits_per_dim": self.prior + between + self.reconstruction,
            "bits_prior": self.prior,
            "bits_steps": between,
            "bits_reconstruction": self.reconstruction,
        }
        return [mean_measurement(name, value) for name, value in terms.items()]

    def bound(self) -> "BitsByTerm":
        """The terms, and the mean of each step."""
        return BitsByTerm(self.measurements(), self.times, self.steps.mean(1).tolist())


@dataclass(frozen=True)
class BitsByTerm(Record):
    """The bound, summed up over its examples."""

    terms: list[Measurement]
    t: list[float]  # (n - 1,) where each step starts
    steps: list[float]  # (n - 1,)


def bound_by_level(
    bound: Bound,
    x0: Tensor,
    levels: Sequence[Level],
    seed: int,
    share: Share,
    device: torch.device | str,
) -> Bits:
    """The bound of latents x0 (N, C, h, w), noise keyed by (seed, level, example)."""

    @torch.no_grad()
    def work(piece: list[int]) -> Elbo:
        x = x0[piece].to(device)

        def noise(level: int) -> Tensor:
            draws = [keyed.normal(x.shape[1:], seed, "elbo", level, i) for i in piece]
            return torch.stack(draws).to(x)

        found = elbo(bound(piece), x, levels, noise)
        return Elbo(*(term.cpu().double() for term in found))

    parts = share.each(work, pieces(len(x0)))
    n = len(x0)
    return Bits(
        [float(level.t) for level in levels[:-2]],
        torch.cat([p.prior for p in parts])[:n],
        torch.cat([p.steps for p in parts], 1)[:, :n],
        torch.cat([p.reconstruction for p in parts])[:n],
    )


def flow_bits(
    bound: Bound,
    schedule: Schedule,
    x0: Tensor,
    seed: int,
    share: Share,
    device: torch.device | str,
    steps: int = 20,
    size: int = MICRO_BATCH // 2,
) -> Tensor:
    """-log₂ p(x0) per dimension (N,) by the probability flow, one Hutchinson probe each."""

    def work(piece: list[int]) -> Tensor:
        x = x0[piece].to(device)
        signs = [keyed.normal(x.shape[1:], seed, "probe", i).sign() for i in piece]
        probes = torch.stack(signs)[None].to(x)
        with torch.no_grad():
            found = ode_log_prob(bound(piece), schedule, x, probes, steps)
        return bits_per_dim(-found.log_prob, x).cpu().double()

    return torch.cat(share.each(work, pieces(len(x0), size)))[: len(x0)]
