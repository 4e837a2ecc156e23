"""The (x0, ε) plane: a noise level is a point of a path, a prediction is a direction.

Every Gaussian diffusion is x = α·x0 + σ·ε. Whatever a network predicts (ε, x0, v, a flow's
velocity, EDM's F) is F = p·x0 + q·ε with (p, q) known at each level, so x and F are two linear
equations in two unknowns, and one 2×2 solve replaces every conversion table. Coefficients are
float64 of shape () or (B,); `fit` casts them at use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Level(NamedTuple):
    """A noise level. `t` in [0, 1] says what the network is told, α and σ say what x is."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio α²/σ²: inf where the level is clean."""
        return (self.alpha / self.sigma) ** 2

    @property
    def log_snr(self) -> Tensor:
        """λ = log α²/σ² (the VDM's convention, twice that of DPM-Solver)."""
        return 2 * (self.alpha.log() - self.sigma.log())


class Estimate(NamedTuple):
    """What a denoiser believes of x: signal, noise and, if learned, the reverse step's variance.

    `var` is Improved DDPM's v in [-1, 1], which interpolates between β̃ and β on a log scale.
    """

    x0: Tensor
    eps: Tensor
    var: Tensor | None = None


class State(NamedTuple):
    """Where a sampler is after a step."""

    x: Tensor  # what it goes on from, also where somebody changes it in place
    level: Level  # of x
    estimate: Estimate | None  # what the denoiser first said in this step, if it was asked


Network = Callable[[Tensor, Level], Tensor]  # (x, level) -> F, conditioning already bound
Denoiser = Callable[[Tensor, Level], Estimate]
Label = Callable[[Level], Tensor]  # what a network is told of a level, float64, shaped like its t
Noise = Callable[[int], Tensor]  # step -> its standard normal draw, like x


def clean(t: float = 0.0) -> Level:
    """The end of every path: α = 1, σ = 0."""
    return Level(*torch.tensor([t, 1.0, 0.0], dtype=torch.float64))


def fit(c: Tensor, x: Tensor) -> Tensor:
    """Shape the coefficient c, () or (B,), to multiply x (B, ...), with x's dtype and device.

    Its dtype first: there are devices without float64.
    """
    return c.reshape(c.shape + (1,) * (x.ndim - c.ndim)).to(x.dtype).to(x.device)


def noised(x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """x = α·x0 + σ·ε, a draw of q(x_t | x0) on any Gaussian path. DDPM (Ho et al. 2020) eq. 4."""
    return fit(level.alpha, x0) * x0 + fit(level.sigma, x0) * eps


def _one(level: Level) -> Tensor:
    return torch.ones_like(level.alpha)


@dataclass(frozen=True)
class Prediction:
    """What a network's output F means: its `direction` (p, q), and the factor c_in on its input."""

    direction: Callable[[Level], tuple[Tensor, Tensor]]
    c_in: Callable[[Level], Tensor] = _one

    def det(self, level: Level) -> Tensor:
        """Area spanned by x's and F's directions: 0 where F tells nothing that x does not."""
        p, q = self.direction(level)
        return level.alpha * q - level.sigma * p


def edm(sigma_data: float = 0.5, sign: float = 1.0) -> Prediction:
    """EDM's preconditioned F, unit variance in and out (Karras et al. 2022, table 1), on any path.

    Their D = c_skip·x + c_out·F, solved for F and written without division by σ or α. On a
    variance-preserving path and with σ_data = 1 it is -v; `sign` -1 flips F.
    """

    def norm(level: Level) -> Tensor:
        return torch.hypot(level.sigma, level.alpha * sigma_data)

    def direction(level: Level) -> tuple[Tensor, Tensor]:
        s = norm(level)
        return sign * level.sigma / (sigma_data * s), -sign * level.alpha * sigma_data / s

    return Prediction(direction, lambda level: 1 / norm(level))


def _constant(p: float, q: float) -> Prediction:
    def direction(level: Level) -> tuple[Tensor, Tensor]:
        return torch.full_like(level.alpha, p), torch.full_like(level.alpha, q)

    return Prediction(direction)


EPS = _constant(0.0, 1.0)  # the noise: DDPM
X0 = _constant(1.0, 0.0)  # the signal
V = Prediction(lambda level: (-level.sigma, level.alpha))  # Salimans & Ho 2022, appendix D
FLOW = _constant(-1.0, 1.0)  # dx/dt of the straight path: rectified flow, Liu et al. 2022 eq. 1

PREDICTIONS: dict[str, Prediction] = {
    "epsilon": EPS,
    "sample": X0,
    "v": V,
    "flow": FLOW,
    "edm": edm(),
}


def target(x0: Tensor, eps: Tensor, level: Level, prediction: Prediction) -> Tensor:
    """F = p·x0 + q·ε.

    Formed from both: recovering ε from x by subtraction loses 1e-4 at small σ in float32.
    """
    p, q = prediction.direction(level)
    return fit(p, x0) * x0 + fit(q, x0) * eps


def resolve(x: Tensor, out: Tensor, level: Level, prediction: Prediction) -> Estimate:
    """Solve α·x0 + σ·ε = x and p·x0 + q·ε = out for (x0, ε), by Cramer's rule.

    Not finite where the determinant is 0: ε-prediction at α = 0 and x0-prediction at σ = 0.
    """
    p, q = prediction.direction(level)
    det = prediction.det(level)
    return Estimate(
        x0=fit(q / det, x) * x - fit(level.sigma / det, x) * out,
        eps=fit(level.alpha / det, x) * out - fit(p / det, x) * x,
    )


def error_gain(level: Level, prediction: Prediction) -> Tensor:
    """(det/σ)²: squared error of F for one unit of squared error of x0.

    A weight w on |x̂0 - x0|² is w / error_gain on |F̂ - F|²: SNR for ε, 1 for x0, SNR + 1 for v.
    """
    return (prediction.det(level) / level.sigma) ** 2


def posterior(a: Level, b: Level) -> tuple[Tensor, Tensor]:
    """(β̃, β) of the step from a to the cleaner b: Var q(x_b | x_a, x0) and Var q(x_a | x_b).

    Both are 1 - SNR_a/SNR_b of a level's own σ²: DDPM eq. 7; VDM (Kingma et al. 2021), appendix A.
    Between two clean levels, or two of pure noise, nothing is lost.
    """
    lost = 1 - (a.alpha * b.sigma / (b.alpha * a.sigma)).square().nan_to_num(nan=1.0)
    return b.sigma**2 * lost, a.sigma**2 * lost


def betas_of(bar: Tensor) -> Tensor:
    """β (N,) of a table whose steps leave ᾱ (N,)."""
    return 1 - bar / torch.cat([torch.ones_like(bar[:1]), bar[:-1]])


def step(
    estimate: Estimate, b: Level, std: Tensor | None = None, z: Tensor | None = None
) -> Tensor:
    """x_b = α_b·x̂0 + √(σ_b² - std²)·ε̂ + std·z: DDIM (Song et al. 2021) eq. 12, on any path."""
    x0, eps = estimate.x0, estimate.eps
    std = torch.zeros_like(b.sigma) if std is None else std
    kept = (b.sigma**2 - std**2).clamp(min=0).sqrt()
    x = fit(b.alpha, x0) * x0 + fit(kept, x0) * eps
    return x if z is None else x + fit(std, x0) * z
