"""The processes that tests train in can use a GPU, whatever this one has done with it."""

import json
import os
from pathlib import Path

import torch

from tests.training_processes import start, start_method


def train(config) -> int:
    """Stands for a training script: notes what its process is, and ends with a status."""
    facts = {"poisoned": torch.cuda._is_in_bad_fork(), "told": os.environ["TOLD"]}
    Path(config.output, config.name).write_text(json.dumps(facts))
    return 7


def test_a_spawned_process_may_use_the_gpu_though_this_one_has_counted_them(tmp_path):
    torch.cuda.device_count()  # after which no fork of this process may
    (tmp_path / "c.yaml").write_text(f"output: {tmp_path}")
    process = start(__name__, tmp_path / "c.yaml", ["name=facts"], method="spawn", TOLD="yes")
    process.join()
    assert process.exitcode == 7
    assert json.loads((tmp_path / "facts").read_text()) == {"poisoned": False, "told": "yes"}


def test_processes_are_spawned_where_there_is_a_gpu_and_forked_elsewhere(monkeypatch):
    for there, method in ((True, "spawn"), (False, "forkserver")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert start_method() == method
