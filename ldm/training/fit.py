"""What a loop trains, and all that training it must keep: optimizer, averages, the checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.core.inference import leaving_nothing
from ldm.training.ema import EMA
from ldm.training.optim import GuardedStep, average_gradients, learning_rate, optimizer_of
from ldm.training.post_hoc_ema import LENGTHS, PowerEMA, forget_after
from ldm.training.run import Run
from ldm.training.state import TrainingState

Batch = TypeVar("Batch")


class Means:
    """A step's figures, averaged over its micro-batches and the processes."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Tensor]] = []

    def add(self, figures: dict[str, Tensor]) -> None:
        self.rows.append(figures)

    def over(self, accelerator: Accelerator) -> dict[str, float]:
        """One exchange and one wait for the device, for all of them."""
        table = torch.stack([torch.stack([v.float() for v in row.values()]) for row in self.rows])
        means = accelerator.reduce(table.mean(0), "mean").tolist()
        return dict(zip(self.rows[0], means, strict=True))


class Fit:
    """The training of one module in a Run; the loop over its steps stays with the script.

    `trained` is optimised, averaged and saved; `memory` are the modules that are saved besides, and
    `optimizers` theirs. `curve` are parameters with a rate of their own. With `wrapped`, gradients
    are averaged over the processes while they are made: `network` is then what to call, and
    averages of other lengths are kept. Without, as in stage 1, gradients are averaged before the
    step. `facts` and `data` are those of TrainingState.
    """

    def __init__(
        self,
        run: Run,
        trained: nn.Module,
        facts: Mapping[str, Any],
        data: Mapping[str, str],
        memory: Mapping[str, nn.Module],
        *,
        optimizers: Mapping[str, Optimizer] | None = None,
        curve: Sequence[nn.Parameter] = (),
        wrapped: bool = True,
    ) -> None:
        self.run, self.options, self.accelerator = run, run.train, run.accelerator
        self.wrapped, self.start = wrapped, 0
        optimizer = optimizer_of(trained, self.options, curve)
        self.ema = EMA(trained, self.options.ema_decay)
        averages: dict[str, Any] = {"ema": self.ema}
        self._averages: PowerEMA | None = None
        if wrapped:
            self._averages = PowerEMA(trained, LENGTHS if self.options.ema_snapshots else ())
            averages["averages"] = self._averages
        self.network = trained
        if wrapped:
            self.network, optimizer = self.accelerator.prepare(trained, optimizer)
        else:
            optimizer = self.accelerator.prepare(optimizer)
        apart = {id(p) for p in curve}
        self._parameters = [p for p in trained.parameters() if id(p) not in apart]
        self._step = GuardedStep(self.accelerator, optimizer, self._parameters, self.options.clip)
        self.modules = {run.stage: trained, **memory}
        self._state = TrainingState(
            self.accelerator,
            run.share,
            run.folder / "checkpoints",
            self.modules,
            {run.stage: optimizer, **(optimizers or {})},
            averages,
            facts,
            data,
        )

    def resume(self) -> int:
        """Take up the newest checkpoint; returns the number of steps that are done."""
        self.start = self.run.resume(self._state)
        if self._averages is not None and self.run.main:
            forget_after(self.start, self.run.folder / "ema")
        return self.start

    def steps(self) -> Iterator[int]:
        """Each step's number, from where it was taken up; saves and stops as Run.steps."""
        return self.run.steps(self._state, self.start)

    def micro_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches of one step; processes exchange gradients while they work on the last."""
        for left in reversed(range(self.options.accumulation)):
            alone = left and self.wrapped
            with self.accelerator.no_sync(self.network) if alone else nullcontext():
                yield next(batches)

    def backward(self, loss: Tensor) -> None:
        """The gradient of one micro-batch's mean loss, as its share of the step's."""
        self.accelerator.backward(loss / self.options.accumulation)

    def mean(self, losses: Sequence[Tensor]) -> float:
        """The mean of the micro-batches' losses, over all processes."""
        return self.accelerator.reduce(torch.stack(list(losses)).mean(), "mean").item()

    def update(self, step: int, loss: float) -> dict[str, float]:
        """Take one optimizer step and fold it into the averages; returns what to log of it.

        `loss` is the mean over all processes. Raises Diverged where it has been no number too long.
        """
        rate = learning_rate(step, self.options)
        if not self.wrapped:
            average_gradients(self.accelerator, self._parameters)
        norm = self._step(loss, rate)
        self.ema.update(step + 1)
        if self._averages is not None:
            self._averages.update(step + 1)
        return {"learning_rate": rate, "gradient_norm": norm}

    def snapshot(self, step: int) -> None:
        """Save the averages from which others are made after training, where that is due."""
        every = self.options.ema_snapshots
        if self._averages is not None and self.run.main and every and self.run.due(step, every):
            self._averages.snapshot(self.run.folder / "ema", step)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the module computes with its average; nothing else is left behind."""
        with leaving_nothing(), self.ema.applied():
            yield
