"""A process that is killed ends the others, whatever they are busy with."""

import os
import signal
import time
from pathlib import Path

from ldm.core.files import written
from ldm.training import processes
from ldm.training.checkpoint import save_checkpoint
from tests.training_processes import run_distributed


def train(config) -> int:
    """Stands for a training script: the last of three is done, one is killed, one works on."""
    folder = Path(config.output)
    os.dup2(os.open(folder / f"said_{os.environ['RANK']}", os.O_WRONLY | os.O_CREAT), 2)
    processes.SETTLING = 0.3
    share = processes.this_share()
    watch = processes.watched(share, folder / "checkpoints")
    if share.rank == 2:
        watch.leave()
        return 0 if watch.watching else 1
    if share.rank == 1:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    with written(folder / "file") as file:  # which it finishes, though it takes longer
        time.sleep(2)
        file.write_text("whole")
    while True:  # and waits for nobody
        time.sleep(0.1)


def test_who_works_on_ends_in_a_sentence_and_who_was_done_troubles_nobody(tmp_path):
    save_checkpoint(tmp_path / "checkpoints", 4, {}, {})
    (tmp_path / "c.yaml").write_text(f"output: {tmp_path}")
    assert run_distributed(__name__, tmp_path / "c.yaml", [], 3) == [2, -signal.SIGKILL, 0]
    assert (tmp_path / "said_0").read_text().splitlines() == [
        "error: another process of this run is gone, and has said why if it could; run the same "
        f"command again: it goes on from {tmp_path / 'checkpoints' / 'step_0000004'}, which is "
        "whole"
    ]
    assert (tmp_path / "file").read_text() == "whole"
