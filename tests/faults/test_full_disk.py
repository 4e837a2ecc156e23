"""A disk that fills up: a sentence, nothing lost, and the command goes on once there is room."""

import os
import shutil
import subprocess
from functools import partial

import pytest

from tests.faults.commands import full_from, operations_of
from tests.faults.experiments import COMMANDS, Experiments

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
PLACES = {"stage 1": 20, "stage 2": 20, "export": 10, "generate": 3, "inspect": 2}


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    return Experiments(tmp_path_factory.mktemp("full"))


@pytest.mark.parametrize("name", PLACES)
def test_a_disk_that_is_full_from_some_operation_on_ends_in_a_sentence(experiments, note, name):
    command = COMMANDS[name]
    listing = experiments.copy(name)
    operations = operations_of(command.target, command.arguments(listing), listing, listing.parent)
    for number in range(0, len(operations), max(1, len(operations) // PLACES[name])):
        place = experiments.copy(name)
        met = command.run(place, partial(full_from, number, str(place)))
        outcome = met.outcome(experiments.good(name, place))
        note(f"disk full: {name}", outcome)
        assert outcome in ("a sentence", "as without it"), f"{operations[number]}\n{met.said}"
        again = command.run(place)
        assert again.outcome(experiments.good(name, place)) == "as without it", again.said
        shutil.rmtree(place.parent)


@pytest.mark.parametrize("name", ["stage 1", "stage 2", "export"])
def test_a_disk_that_is_really_full_ends_in_a_sentence(experiments, note, name, tmp_path):
    """Disks in memory that hold a little more each time, as mounted by root."""
    if not hasattr(os, "geteuid") or os.geteuid() or not shutil.which("mount"):
        pytest.skip("mounting a small disk needs root")
    command, disk = COMMANDS[name], tmp_path / "disk"
    disk.mkdir()
    begins, ends = (
        _size(place) for place in (experiments.before(name), experiments.unbroken(name))
    )
    for tenth in range(1, 11):
        size = begins + (ends - begins) * tenth // 10
        mounted = ["mount", "-t", "tmpfs", "-o", f"size={size + 40_000}", "none", str(disk)]
        if subprocess.run(mounted, capture_output=True, check=False).returncode:
            pytest.skip("this machine mounts no disks")
        try:
            place = disk / "here"
            shutil.copytree(experiments.before(name), place)
            met = command.run(place)
            outcome = met.outcome(experiments.good(name, place))
            note(f"disk full, a real one: {name}", outcome)
            assert outcome in ("a sentence", "as without it"), met.said
            subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
            again = command.run(place)
            assert again.outcome(experiments.good(name, place)) == "as without it", again.said
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def _size(place) -> int:
    """Bytes on a disk of 4,096-byte blocks."""
    return sum(-(-p.stat().st_size // 4096) * 4096 + 4096 for p in place.rglob("*"))
