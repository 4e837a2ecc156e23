"""metrics.jsonl: what is damaged costs its own line, and is told."""

import sys
import time
from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from accelerate import tracking as tracking_of_accelerate
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing import event_accumulator

from ldm.core.errors import UserError
from ldm.training.tracking import Metrics, read_metrics, refuse_absent

LINES = [b'{"step": 1, "loss": 0.5}', b'{"step": 2, "loss": NaN}', b'{"step": 3, "loss": 0.25}']


def test_a_last_line_cut_by_a_kill_is_left_out_in_silence(tmp_path, recwarn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(LINES)[:-4])
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    assert not recwarn


@pytest.mark.parametrize(
    "line",
    [b'{"step": 2, "lo\xf3s": 0.5}', b"", b"[]", b"2", b'{"loss": 1}', b'{"step": "2"}',
     b'{"step": 2, "loss": [1]}', b'{"step": true}', b'{"step": 2, "loss": null}'],
)  # fmt: skip
def test_a_damaged_line_is_told_and_later_ones_are_kept(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([LINES[0], line, LINES[2], b""]))
    with pytest.warns(UserWarning, match=r"1 of 3 lines of .*metrics.jsonl are damaged"):
        assert [record["step"] for record in read_metrics(path)] == [1, 3]
    with pytest.warns(UserWarning):
        assert Metrics(Accelerator(cpu=True), True, path).resume(2) == 3
    assert path.read_bytes() == LINES[0] + b"\n"


def accelerator(tmp_path, tracker):
    return Accelerator(cpu=True, log_with=tracker, project_dir=tmp_path)


def test_tensorboard_shows_one_curve_over_a_resume(tmp_path):
    for start, steps in ((0, (10, 20, 30)), (20, (30, 40))):  # 30 was after the checkpoint
        metrics = Metrics(accelerator(tmp_path, "tensorboard"), True, tmp_path / "metrics.jsonl")
        metrics.resume(start)
        metrics.track("run", 0, start)
        for step in steps:
            metrics.log(step, {"loss": float(start + step)})
        metrics.finish()
        if not start:
            time.sleep(1.1)  # files of events are named by the second
    (folder,) = {path.parent for path in tmp_path.rglob("*tfevents*")}
    read = event_accumulator.EventAccumulator(str(folder)).Reload()
    shown = [(event.step, event.value) for event in read.Scalars("loss")]
    assert shown == [(10, 10.0), (20, 20.0), (30, 50.0), (40, 60.0)]


class Wandb:
    """What Accelerate uses of the package, which cannot be reached offline."""

    def __init__(self):
        self.begun = []

    def init(self, **arguments):
        self.begun.append(arguments)
        return SimpleNamespace(log=lambda *a, **k: None, finish=lambda: None)

    config = SimpleNamespace(update=lambda *a, **k: None)


def test_weights_and_biases_is_told_the_same_run_at_each_resume(tmp_path, monkeypatch):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(
        tracking_of_accelerate, "get_available_trackers", lambda: [LoggerType.WANDB]
    )
    for start in (0, 20, 40, 0):
        metrics = Metrics(accelerator(tmp_path, "wandb"), True, tmp_path / "metrics.jsonl")
        metrics.track("run", 0, start)
        metrics.finish()
    first, second, third, anew = (arguments["id"] for arguments in wandb.begun)
    assert first == second == third != anew
    assert all(arguments["resume"] == "allow" for arguments in wandb.begun)


def test_a_tracker_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking_of_accelerate, "get_available_trackers", lambda: [])
    with pytest.raises(UserError, match=r"tracker=comet_ml is not installed: pip install comet-ml"):
        refuse_absent(accelerator(tmp_path, "comet_ml"), "comet_ml")
    refuse_absent(accelerator(tmp_path, None), "none")
