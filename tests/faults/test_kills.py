"""A process that is killed at any file operation: the same command ends as if it never had been."""

import shutil
from functools import partial

import pytest

from tests.faults.commands import kill_at, operations_of
from tests.faults.experiments import COMMANDS, Experiments

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
PARTS = 4  # so that two processes share the work evenly
MOST = {"stage 1": 60, "stage 2": 100, "export": 40, "generate": 4, "inspect": 4}


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    return Experiments(tmp_path_factory.mktemp("kills"))


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", MOST)
def test_the_same_command_ends_as_if_it_had_not_been_killed(experiments, note, name, part):
    command = COMMANDS[name]
    listing = experiments.copy(name)
    operations = operations_of(command.target, command.arguments(listing), listing, listing.parent)
    every = range(0, len(operations), max(1, len(operations) // MOST[name]))
    for number in list(every)[part::PARTS]:
        place = experiments.copy(name)
        assert command.run(place, partial(kill_at, number, str(place))).status == -9
        again = command.run(place)
        outcome = again.outcome(experiments.good(name, place))
        note(f"killed: {name}", outcome)
        assert outcome == "as without it", f"{number}: {operations[number]}\n{again.said}"
        shutil.rmtree(place.parent)
