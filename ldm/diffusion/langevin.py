"""Samplers that let x settle at each noise level: annealed Langevin, and predictor-corrector."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from ldm.diffusion.denoise import drawn
from ldm.diffusion.plane import Denoiser, Estimate, Level, Noise, State, fit, posterior, step


def langevin_step(estimate: Estimate, x: Tensor, level: Level, size: float, z: Tensor) -> Tensor:
    """x + δσ²·∇ log q(x) + √(2δ)·σ·z, written with ε̂: keeps q(x_t), up to a bias of order δ.

    `size` δ has no unit. In NCSN (Song & Ermon 2019, algorithm 1) it is ½ε/σ_L² = 0.1; in Song et
    al. 2021 (algorithm 5) it is 2·snr², with their norms' ratio |z|/|ε̂| at its expectation of 1, so
    that a step depends on no other image of the batch.
    """
    eps = estimate.eps
    return x - fit(size * level.sigma, x) * eps + fit((2 * size) ** 0.5 * level.sigma, x) * z


def predictor_corrector(
    denoiser: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    noise: Noise | None = None,
    corrections: int = 1,
    snr: float = 0.16,
) -> Iterator[State]:
    """A step of the reverse SDE, then Langevin steps at the level it reached.

    Song et al. 2021, algorithm 1, with ancestral sampling as predictor (appendix F). Step i draws
    noise(i·(corrections + 1)) and those that follow it.
    """
    for i, (a, b) in enumerate(pairwise(levels)):
        draw = i * (corrections + 1)
        estimate = denoiser(x, a)
        x = step(estimate, b, posterior(a, b)[0].sqrt(), drawn(noise, draw))
        if b.sigma > 0:
            for k in range(corrections):
                x = langevin_step(denoiser(x, b), x, b, 2 * snr**2, drawn(noise, draw + 1 + k))
        yield State(x, b, estimate)


def langevin(
    denoiser: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    noise: Noise | None = None,
    corrections: int = 100,
    size: float = 0.1,
) -> Iterator[State]:
    """Annealed Langevin dynamics: x is carried to the next level as it is, and settles there.

    Song & Ermon 2019, algorithm 1; at a clean level x becomes x̂0, the last denoising step of
    Jolicoeur-Martineau et al. 2021. Step i draws noise(i·corrections) and those that follow it.
    """
    for i, (a, b) in enumerate(pairwise(levels)):
        first = None
        if b.sigma > 0:
            for k in range(corrections):
                estimate = denoiser(x, b)
                first = first or estimate
                x = langevin_step(estimate, x, b, size, drawn(noise, i * corrections + k))
        else:
            first = denoiser(x, a)
            x = first.x0
        yield State(x, b, first)
