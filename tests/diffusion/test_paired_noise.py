"""With one Brownian motion for all steps a sample changes little with their number."""

from functools import partial

import pytest
import torch

from ldm.core import brownian as keyed_motion
from ldm.diffusion.brownian import brownian
from ldm.diffusion.exact import mixture
from ldm.diffusion.grids import GRIDS
from ldm.diffusion.plane import Estimate, fit
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.schedules import SCHEDULES

PAIRED = [name for name, sampler in SAMPLERS.items() if sampler.noise and sampler.paired]
SCHEDULE = SCHEDULES["vp"]()
X, X0 = torch.randn(2, 64, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def motion(s, t):
    return keyed_motion.brownian(X.shape, s, t, "sample").double()


def per_step(i):
    return torch.randn(X.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)


def end(name, denoise, levels, noise):
    *_, (x, _, _) = SAMPLERS[name](denoise, X, levels, noise=noise(levels))
    return x


@pytest.mark.parametrize("name", PAIRED)
def test_where_the_answer_is_known_any_number_of_steps_is_one(name):
    def knows(x, level):
        return Estimate(X0, fit(1 / level.sigma, x) * (x - fit(level.alpha, x) * X0))

    ends = []
    for n in (1, 7, 40):
        times = torch.linspace(1, 0.3, n + 1, dtype=torch.float64)
        levels = [SCHEDULE.level(t) for t in times]
        ends.append(end(name, knows, levels, partial(brownian, motion)))
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(ends[2], ends[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde"])
def test_20_and_40_steps_make_nearly_the_same_and_with_noise_of_their_own_do_not(name):
    points = torch.randn(5, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    denoise = mixture(points, 0.2)

    def apart(noise):
        few, many = (end(name, denoise, GRIDS["trailing"](SCHEDULE, n), noise) for n in (20, 40))
        return float((few - many).norm(dim=1).mean())

    shared, own = apart(partial(brownian, motion)), apart(lambda levels: per_step)
    assert shared < 0.25 * own
