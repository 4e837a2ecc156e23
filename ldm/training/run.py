"""The frame around a training loop: processes, folder, figures, signals, progress."""

import atexit
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ldm.config import Config, TrainConfig, load_config, save_config
from ldm.core import keyed
from ldm.core.errors import UserError, writing
from ldm.core.files import sweep
from ldm.core.system import lock, peak_memory
from ldm.core.text import shown, shown_lines
from ldm.data.example import Source
from ldm.data.order import Slot, micro_batch_size, micro_batches
from ldm.data.quarantine import checked
from ldm.data.source import NEEDS, open_sources
from ldm.training.checkpoint import newest_state
from ldm.training.facts import refuse_other_facts
from ldm.training.processes import accelerator_of, this_share, watched
from ldm.training.state import TrainingState
from ldm.training.tracking import Metrics

LOG_EVERY = 10  # steps; the loss that is logged is their mean


class Run:
    """One stage of one experiment, in `config.folder`/`stage`."""

    def __init__(self, config: Config, stage: str, train: TrainConfig) -> None:
        self.config, self.train = config, train
        self.stage, self.folder = stage, config.folder / stage
        self.accelerator = accelerator_of(config, train, self.folder)
        self.share = this_share()
        micro_batch_size(train.batch_size, train.accumulation, self.share.world)  # or be refused
        atexit.register(self.accelerator.state.destroy_process_group)  # an export still needs it
        self._watch = watched(self.share, self.folder / "checkpoints")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        self.main = self.share.main
        if not self._watch.watching:
            self.say(
                "note: a process that is gone is noticed by those only who wait for it, as the "
                "processes cannot reach the first one's machine beside their exchange"
            )
        if self.main:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = _claimed(self.folder)
            sweep(config.folder, deep=True)
            self._note_changes()
        self.metrics = Metrics(self.accelerator, self.main, self.folder / "metrics.jsonl")
        self.signal = 0  # that asked this run to stop
        self.finished = False
        self.rejected: dict[str, int] = {}  # images of each source that cannot be used
        self._window: list[dict[str, float]] = []  # of the steps since figures were recorded
        self._timed, self._seconds = 0, 0.0  # of those of this session
        torch.manual_seed(keyed.integer(config.seed, stage, "initial weights", below=2**63))

    @property
    def _config_file(self) -> Path:
        return self.config.folder / "config.yaml"

    def _note_changes(self) -> None:
        if not self._config_file.exists():
            return
        try:
            before, now = asdict(load_config(self._config_file)), asdict(self.config)
        except UserError as error:
            self.say(shown(f"note: {self._config_file} cannot be compared with: {error}"))
            return
        for section in now:
            if before[section] != now[section]:
                self.say(f"note: {section} is not what it was when this run began")

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def say(self, text: str) -> None:
        """Print on the main process, above the progress bar."""
        if self.main:
            tqdm.write(shown_lines(text))

    def sources(self) -> dict[str, Source]:
        """The training and the validation set, without their bad images."""
        needs = NEEDS.get(self.config.conditioning.kind, "caption")
        sound: dict[str, Source] = {}
        with self.accelerator.main_process_first():  # the others find what it left in the cache
            for name, found in open_sources(self.config.data, self.config.seed, needs).items():
                sound[name] = checked(found, self.config.folder / "cache" / "images" / name)
                self.rejected[name] = len(found) - len(sound[name])
        if not len(sound["validation"]):
            raise UserError("no image is held out to judge by: set data.validation or data.holdout")
        for split, source in sound.items():
            for note in source.notes:
                self.say(shown(f"{split} images: {note}"))
        return sound

    def earlier_facts(self, now: dict[str, Any]) -> dict[str, Any]:
        """What the newest checkpoint was made with; {} before there is one.

        Raises UserError where `now`, as far as it is known yet, is another.
        """
        folder = self.folder / "checkpoints"
        before = newest_state(folder).get("facts", {})
        refuse_other_facts(folder, before, now)
        return before

    def resume(self, state: TrainingState) -> int:
        """Take up the newest checkpoint; returns the number of steps that are done.

        The config is the run's own from here on: a mistaken command before leaves no trace in it.
        """
        start = state.resume()
        self._window = list(state.loop.get("window", []))
        known = self._config_file.exists()
        if self.main:
            save_config(self.config, self._config_file)
        recorded = self.metrics.resume(start)
        if start:
            self.say(f"resuming after step {start}")
            if state.changes:
                self.say(f"note: {state.changes}")
            for file, there in ((self._config_file, known), (self.metrics.path, recorded)):
                if self.main and not there:
                    self.say(f"note: {file} was empty or not there and begins anew")
        elif recorded:
            self.say(f"note: no checkpoint was saved up to step {recorded}: beginning at step 0")
        return start

    def gather(self, table: Tensor) -> Tensor:
        """Tables of all processes, stacked along the first dimension, on the CPU."""
        if self.share.world == 1:
            return table
        return self.accelerator.gather(table.to(self.device)).cpu()

    def slots(self, epoch: Sequence[int], start: int, shuffle: bool = True) -> Iterator[list[Slot]]:
        """This process's micro-batches of the steps from `start`, `accumulation` for each.

        epoch: the indices that one pass over the data set shows, each as often as it stands there.
        """
        train = self.train
        places = micro_batches(
            self.config.seed,
            len(epoch),
            train.batch_size,
            train.accumulation,
            self.share.world,
            self.share.rank,
            start,
            train.steps,
            shuffle,
        )
        return ([slot._replace(index=int(epoch[slot.index])) for slot in micro] for micro in places)

    def steps(self, state: TrainingState, start: int) -> Iterator[int]:
        """Yield each step's number from `start`, saving when due, at the end and on a signal.

        SIGTERM and SIGINT let the step in hand finish, write one checkpoint and end the iteration;
        `finished` then stays False.
        """
        self.metrics.track(self.config.name, self.config.seed, start)
        handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        self.bar = tqdm(
            initial=start,
            total=self.train.steps,
            unit="step",
            disable=not self.main,
            smoothing=0.05,
        )
        try:
            for step in range(start, self.train.steps):
                # for what the torch generator still decides, such as dropout in a layer
                key = (self.config.seed, "torch", step, self.share.rank)
                torch.manual_seed(keyed.integer(*key, below=2**63))
                self._began = time.perf_counter()
                yield step
                self.bar.update()
                stop = self._stop_agreed()
                if stop or self.due(step + 1, self.train.checkpoint_every):
                    state.loop = {"window": self._window}
                    state.save(step + 1, self.train.keep_checkpoints)
                if stop:
                    self.say(f"stopped after step {step + 1}; the same command goes on from there")
                    return
            self.finished = True
        except GeneratorExit:  # by an error in the loop: a launcher's signal must not come before
            handlers.clear()  # what is said of it
            raise
        finally:
            self.bar.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self.metrics.finish()

    def due(self, step: int, every: int) -> bool:
        """Whether `step` is a multiple of `every` (0: never), or the last one."""
        return (every > 0 and step % every == 0) or step == self.train.steps

    def log(self, step: int, **values: float) -> None:
        """Take the figures of one step; every LOG_EVERY steps their means are recorded."""
        self._seconds += time.perf_counter() - self._began
        self._timed += 1
        self._window = [v for v in self._window if v.keys() == values.keys()]  # a resumed run's may
        self._window.append(values)  # lack a term that is new
        self.bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
        if not self.due(step, LOG_EVERY):
            return
        count = len(self._window)
        means = {key: sum(v[key] for v in self._window) / count for key in values}
        means["images_per_second"] = self._timed * self.train.batch_size / self._seconds
        means["peak_memory_gib"] = peak_memory_gib()
        self.metrics.log(step, means)
        self._window, self._timed, self._seconds = [], 0, 0.0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt  # asked twice: leave at once, the last checkpoint is whole
        self.signal = number

    def _stop_agreed(self) -> bool:
        """Whether any process was asked to stop; all must leave after the same step."""
        self.signal = int(self.gather(torch.tensor([self.signal])).max())
        return bool(self.signal)

    def end(self) -> int:
        """Part from the other processes; returns the exit status: 0, or 128 + the signal it met.

        Whoever ends without it is lost to them, and they end too.
        """
        self._watch.leave()
        return 0 if self.finished else 128 + self.signal


def _claimed(folder: Path) -> IO[str]:
    """An open file that keeps others from training in `folder` while this process lives."""
    file = (folder / "lock").open("a")
    if not lock(file):
        raise UserError(
            f"another process is training in {folder}: wait for it, stop it, or give another "
            "name=..."
        )
    return file


def peak_memory_gib() -> float:
    """The most memory this process has used: the GPU's where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_memory() / 2**30
