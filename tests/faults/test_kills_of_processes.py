"""One of two processes is killed anywhere: the other ends in a sentence, and the run goes on."""

import os
import shutil
import signal
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import pytest
from accelerate import Accelerator

from ldm.training import processes
from tests.faults.commands import kill_at, list_operations, run_both, tree
from tests.faults.experiments import COMMANDS, Experiments

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
MOST = 6  # kills of each process, in each stage
STAGES = ["stage 1", "stage 2"]
HERE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    return Experiments(tmp_path_factory.mktemp("lost"))


@pytest.fixture(scope="module")
def unbroken(experiments):
    """unbroken(stage): what two processes leave, and at how many places each may be killed."""

    @cache
    def made(name: str) -> tuple[dict[str, object], list[int]]:
        place, counted = experiments.copy(name), experiments.folder / name
        counted.mkdir()
        before = partial(count, str(place), str(counted))
        ends = run_both(COMMANDS[name].target, COMMANDS[name].arguments(place), before, place)
        assert [end.status for end in ends] == [0, 0], ends
        result = tree(place, *COMMANDS[name].result)
        assert result, "no result"
        return result, [len((counted / str(r)).read_text().splitlines()) for r in range(2)]

    return made


def count(place: str, into: str) -> None:
    """What `die` counts: file operations of the main process, exchanges of the other."""
    file = f"{into}/{os.environ['RANK']}"
    if os.environ["RANK"] == "0":
        list_operations(place, file)
    else:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        at_exchanges(lambda: os.write(descriptor, b"exchange\n"))


def at_exchanges(act) -> None:
    """Have `act` called whenever this process is about to exchange something with the others."""
    for owner, name in (
        (processes, "gather_object"),
        (Accelerator, "gather"),
        (Accelerator, "reduce"),
    ):
        setattr(owner, name, _after(act, getattr(owner, name)))


def _after(act, real):
    def both(*args, **kwargs):
        act()
        return real(*args, **kwargs)

    return both


def die(rank: int, number: int, place: str) -> None:
    """Kill process `rank` at its file operation or exchange `number`, from 0."""
    if os.environ["RANK"] != str(rank):
        return
    if rank == 0:
        kill_at(number, place)
        return
    left = number

    def act() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    at_exchanges(act)


@pytest.mark.parametrize("rank", range(2))
@pytest.mark.parametrize("name", STAGES)
def test_the_other_ends_in_a_sentence_and_the_same_command_ends_as_ever(
    experiments, unbroken, note, name, rank
):
    command, (result, numbers) = COMMANDS[name], unbroken(name)
    for number in range(0, numbers[rank], max(1, -(-numbers[rank] // MOST))):
        place = experiments.copy(name)
        call = command.target, command.arguments(place)
        ends = run_both(*call, partial(die, rank, number, str(place)), place)
        assert ends[rank].status == -signal.SIGKILL
        alone = ends[1 - rank]
        over = alone.status == 0  # killed when the other had no more to do with it
        outcome = alone.outcome(over)
        note(f"one of two processes killed, the other: {name}", outcome)
        assert outcome == "as without it" if over else outcome == "a sentence", (number, alone)
        assert over or "another process of this run is gone" in alone.said, (number, alone)
        again = run_both(*call, None, place)
        outcome = again[0].outcome(tree(place, *command.result) == result)
        note(f"one of two processes killed, then the same command again: {name}", outcome)
        assert outcome == "as without it", (number, again)
        assert not list(place.rglob(".writing_*"))
        shutil.rmtree(place.parent)


SCRIPT = """
import os, sys
from importlib import import_module
from tests.faults.test_kills_of_processes import die
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    die(1, {number}, {place!r})
sys.exit(import_module({module!r}).main())
"""
LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1"),
    "accelerate": ("accelerate.commands.accelerate_cli", "launch", "--multi_gpu",
                   "--num_processes=2", "--num_machines=1", "--mixed_precision=no",
                   "--dynamo_backend=no", "--max_restarts=1", "--main_process_port=0"),
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("name", STAGES)
def test_a_launcher_that_may_restart_goes_on_by_itself(experiments, unbroken, name, launcher):
    command, (result, numbers) = COMMANDS[name], unbroken(name)
    place = experiments.copy(name)
    script, module = place / "script.py", command.target.split(":")[0]
    number = numbers[1] * 3 // 4
    script.write_text(SCRIPT.format(number=number, place=str(place), module=module))
    environment = {**os.environ, "PYTHONPATH": str(HERE), "ACCELERATE_USE_CPU": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher], str(script), *command.arguments(place)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("error: another process of this run is gone") == 1, ended.stderr
    assert "resuming after step" in ended.stdout and "Traceback" not in ended.stderr
    assert tree(place, *command.result) == result
    assert not list(place.rglob(".writing_*"))
