"""Validation in the course of training: the loss by noise level, held out and trained on."""

from collections.abc import Mapping

from torch import Tensor

from ldm.core.inference import evaluating
from ldm.diffusion.learned import Learned
from ldm.diffusion.loss import denoising_loss
from ldm.diffusion.plane import Level
from ldm.diffusion.schedules import snap
from ldm.evaluation.noise_levels import LossByLevel, level_times, loss_by_level, plot
from ldm.training.examples import Examples
from ldm.training.latent_diffusion import LatentDiffusion, bound
from ldm.training.run import Run

EXAMPLES = 128  # of each set; fixed, so that two evaluations differ by the weights alone
LEVELS = 10


class Validation:
    """Loss by noise level on fixed examples with fixed noise, split over the processes.

    The unweighted squared error of the network's output, at levels uniform in time.
    """

    def __init__(self, run: Run, trained: LatentDiffusion, sets: Mapping[str, Examples]) -> None:
        self.run, self.trained, self.spec = run, trained, trained.model.process
        self.examples = {name: examples.fixed(EXAMPLES) for name, examples in sets.items()}
        times = level_times(LEVELS, lambda t: snap(self.spec.schedule, t))
        self.log_snr = self.spec.schedule.level(times).log_snr.detach()
        self.times = times

    def __call__(self, step: int) -> dict[str, LossByLevel]:
        """Evaluate the model as it is, record the figures and draw the curves."""
        if isinstance(self.spec.schedule, Learned):  # whose times change their meaning
            self.times = self.spec.schedule.time(self.log_snr).cpu()
        curves = {name: self._curve(*examples) for name, examples in self.examples.items()}
        figures = {f"{name}/loss": curve.total for name, curve in curves.items()}
        for name, curve in curves.items():
            figures |= {f"{name}/level_{k:02d}": float(v) for k, v in enumerate(curve.mean)}
        self.run.metrics.log(step, figures)
        if self.run.main:
            plot(curves, self.run.folder / "loss_by_level.png")
        return curves

    def _curve(self, x0: Tensor, conditions: Mapping[str, Tensor]) -> LossByLevel:
        device = self.run.device

        def network_loss(x0: Tensor, eps: Tensor, t: Tensor, indices: list[int]) -> Tensor:
            told = {name: rows[indices].to(device) for name, rows in conditions.items()}
            whole = bound(self.trained, self.spec, told)

            def network(x: Tensor, level: Level) -> Tensor:
                return whole(x, level)[:, : x.shape[1]]  # without the learned variance

            return denoising_loss(network, self.spec.schedule, self.spec.prediction, x0, eps, t)

        with self.run.accelerator.autocast(), evaluating(self.trained):
            return loss_by_level(
                network_loss,
                x0,
                self.times,
                self.run.config.seed,
                share=self.run.share,
                device=device,
            )
