"""Noise that is of two levels, not of a step: samples then change little with the number of steps.

Write x = α·x0 + σ·e. With x0 known, an ancestral step to b leaves √SNR_b·e_b = √SNR_a·e_a +
√(SNR_b - SNR_a)·z: √SNR·e is a Brownian motion, and its clock is the signal-to-noise ratio. Where
one motion gives all z, many steps and one come to the same x, but for what the denoiser changed
its mind about. k-diffusion's BrownianTreeNoiseSampler does so with σ for a clock.
"""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from ldm.diffusion.plane import Level, Noise

Motion = Callable[[float, float], Tensor]  # (s, t) -> B(t) - B(s), like x, its variance t - s


def brownian(motion: Motion, levels: Sequence[Level], ends: Sequence[Level] | None = None) -> Noise:
    """The draw of each step down these levels as what one Brownian motion does along it.

    `ends` are what the steps end on where that is not the next level. For `paired` samplers. Raises
    ValueError at a step that ends clean: its noise is none.
    """

    def noise(i: int) -> Tensor:
        s, t = float(levels[i].snr), float((ends or levels[1:])[i].snr)
        if t == math.inf:
            raise ValueError("a step that ends clean has no noise")
        return motion(s, t) / (t - s) ** 0.5

    return noise
