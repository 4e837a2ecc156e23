"""A schedule is two functions; what a network is told of a level stands in a contract."""

import pytest
import torch

from ldm.diffusion.contract import Contract
from ldm.diffusion.denoise import denoiser
from ldm.diffusion.loss import WEIGHTINGS, denoising_loss
from ldm.diffusion.plane import FLOW, Level, edm
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.schedules import SCHEDULES, VE, Flow
from ldm.schedulers.spacings import GRIDS
from ldm.training.tasks.times import TIME_SAMPLERS, Importance

X, *Z = torch.randn(40, 6, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
T = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)


class Straight:
    """A user's own schedule, which is `Flow` with another name."""

    def level(self, t):
        return Level(t, 1 - t, t)

    def time(self, log_snr):
        return (-log_snr / 2).sigmoid()


def network(x, level):
    return (x + level.t.to(x).reshape(-1, 1, 1)).sin()


@pytest.mark.parametrize("name", sorted(set(GRIDS) - {"flow"}))
def test_every_grid_takes_a_schedule_of_two_functions(name):
    found, expected = (GRIDS[name](made, 7) for made in (Straight(), Flow()))
    assert torch.equal(torch.tensor(found), torch.tensor(expected))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_does(name):
    def sample(made):
        levels, options = (
            GRIDS["trailing"](made, 4),
            {"corrections": 2} if name == "langevin" else {},
        )
        denoise = denoiser(network, made, FLOW)
        return [state.x for state in SAMPLERS[name](denoise, X, levels, lambda i: Z[i], **options)]

    assert torch.equal(torch.stack(sample(Straight())), torch.stack(sample(Flow())))


def test_every_time_sampler_and_loss_do():
    for draw in {**TIME_SAMPLERS, "importance": Importance()}.values():
        assert torch.equal(draw(T, Straight()), draw(T, Flow()))
    for weighting in WEIGHTINGS.values():
        found, expected = (
            denoising_loss(network, made, FLOW, X, Z[0], T, weighting)
            for made in (Straight(), Flow())
        )
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [(SCHEDULES["linear"](), 1000 * T - 1), (SCHEDULES["linear"](steps=200), 200 * T - 1),
     (SCHEDULES["vp"](), 1000 * T - 1), (Straight(), 1000 * T - 1),
     (Flow(3.0), 3000 * T / (1 + 2 * T)), (VE(0.01, 1.0), (0.01 ** (1 - T)).log() / 4)],
    ids=["table", "short table", "vp", "one's own", "flow", "ve"],
)  # fmt: skip
def test_labels_are_those_that_such_networks_are_told(schedule, expected):
    told = Contract.of(schedule, edm()).label(schedule.level(T))
    torch.testing.assert_close(told, expected)


def test_a_label_is_of_the_levels_time_whatever_noise_x_has():
    label = Contract.of(Flow(), FLOW).label
    level = Flow().level(T)
    assert torch.equal(label(level._replace(sigma=level.sigma / 2)), label(level))


def test_the_network_of_a_contract_is_given_x_and_told_the_label_in_float32():
    contract, heard = Contract(FLOW, lambda level: level.sigma * 10), []
    made = contract.network(lambda x, label: heard.append(label) or x + 1)
    assert torch.equal(made(X, Flow().level(T)), X + 1)
    assert torch.equal(heard[0], (10 * T).float())
