"""A noise schedule that learns where to look: a monotone network from time to log-SNR.

In continuous time the ELBO depends on a schedule through its two ends alone (VDM, Kingma et al.
2021, eq. 18 and section 5.1): what lies between decides how often training visits each level, and
so only the variance of its estimate. That variance is what is minimised here.
"""

import torch
from torch import Tensor, nn

from ldm.diffusion.plane import Level, Network, Prediction, betas_of, fit, noised, target


class Learned(nn.Module):
    """log-SNR falling from `log_snr_max` to `log_snr_min` along a learned curve s(t), s(0) = 0.

    s is VDM's monotone network (appendix H), a line plus `hidden` rising sigmoids. The ends are
    VDM's too, and fixed: of data with a density the ELBO only ever asks for less noise. Training
    exports as a table, `betas`, whatever the curve became, for labels are linear in log-SNR.
    """

    def __init__(
        self, log_snr_max: float = 13.3, log_snr_min: float = -5.0, hidden: int = 64
    ) -> None:
        super().__init__()
        self.log_snr_max, self.log_snr_min = log_snr_max, log_snr_min
        unit = torch.ones(hidden, dtype=torch.float64)
        self.log_height = nn.Parameter((0.1 / hidden * unit).log())
        self.log_slope = nn.Parameter((20 * unit).log())
        self.center = nn.Parameter(torch.linspace(0, 1, hidden, dtype=torch.float64))

    def _climb(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The curve before it is scaled to end at 1, and its derivative."""
        t = t.to(self.center.device)  # sampling's levels are made on the CPU
        height, slope = self.log_height.exp(), self.log_slope.exp()
        step, origin = ((slope * (u - self.center)).sigmoid() for u in (t[..., None], 0))
        value = t + (height * (step - origin)).sum(-1)
        return value, 1 + (height * slope * step * (1 - step)).sum(-1)

    def progress(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """s(t) and s′(t) > 0."""
        total = self._climb(torch.ones_like(t))[0]
        value, rate = self._climb(t)
        return value / total, rate / total

    def log_snr(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """λ(t) and -λ′(t) > 0."""
        s, rate = self.progress(t)
        span = self.log_snr_max - self.log_snr_min
        return self.log_snr_max - span * s, span * rate

    def level(self, t: Tensor) -> Level:
        return _variance_preserving(t, self.log_snr(t)[0])

    @torch.no_grad()
    def time(self, log_snr: Tensor) -> Tensor:
        s = (self.log_snr_max - log_snr) / (self.log_snr_max - self.log_snr_min)
        return self.reached(s.clamp(0, 1))

    @torch.no_grad()
    def reached(self, s: Tensor) -> Tensor:
        """The time t at which s(t) is s, which is the time in the table, `betas`."""
        s = s.to(self.center.device)
        t = torch.zeros_like(s)
        for k in range(1, 54):  # bisection, to float64's last bit
            t = torch.where(self.progress(t + 2.0**-k)[0] <= s, t + 2.0**-k, t)
        return t

    def betas(self) -> Tensor:
        """β (1000,) of the table with these ends whose entry n is the level labelled n."""
        s = torch.arange(1, 1001, dtype=torch.float64) / 1000
        bar = (self.log_snr_max + (self.log_snr_min - self.log_snr_max) * s).sigmoid()
        return betas_of(bar)


def _variance_preserving(t: Tensor, log_snr: Tensor) -> Level:
    return Level(t, log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt())


def vlb_loss(
    network: Network,
    schedule: Learned,
    prediction: Prediction,
    x0: Tensor,
    eps: Tensor,
    t: Tensor,
) -> Tensor:
    """The ELBO's diffusion term at times t (B,), ½·(-λ′)·|ε - ε̂|², in nats per element: (B,).

    VDM eq. 17. Its mean's gradient reaches the network as it is; what reaches the schedule is the
    gradient of the mean of squares instead, in the same backward pass, by VDM's appendix I.2.
    """
    log_snr, rate = schedule.log_snr(t)
    level = _variance_preserving(t, log_snr)
    x = noised(x0, eps, level)
    out = network(fit(prediction.c_in(level), x) * x, level)
    error = (out - target(x0, eps, level, prediction)).square().flatten(1).mean(1)
    loss = (
        0.5 * rate * (level.alpha / prediction.det(level)) ** 2 * error
    )  # |ε - ε̂| = α/det·|F - F̂|
    for c in (log_snr, rate):
        if c.requires_grad:  # d loss² = 2·loss·d loss, and an example's λ and λ′ are its own
            c.register_hook(lambda gradient: 2 * loss.detach() * gradient)
    return loss
