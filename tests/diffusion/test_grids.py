"""Which levels are visited, by their labels."""

import pytest
import torch

from ldm.diffusion.contract import known_label
from ldm.diffusion.grids import GRIDS, renoise
from ldm.diffusion.schedules import SCHEDULES, VE

LATENT = SCHEDULES["scaled_linear"]()


def labels(levels, schedule=LATENT):
    return [float(known_label(schedule, level)) for level in levels[:-1]]


def test_spacings_are_table_2_of_lin_et_al():
    """T = 1000 and 10 steps; the paper counts from 1, labels count from 0."""
    assert labels(GRIDS["leading"](LATENT, 10)) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert labels(GRIDS["trailing"](LATENT, 10)) == [
        999,
        899,
        799,
        699,
        599,
        499,
        399,
        299,
        199,
        99,
    ]
    assert labels(GRIDS["linspace"](LATENT, 10)) == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("schedule", ["linear", "flow", "continuous_cosine", "ve", "sub_vp"])
@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_a_grid_falls_and_ends_clean(name, schedule, n):
    made = SCHEDULES[schedule]()
    levels = GRIDS[name](made, n)
    assert len(levels) == n + 1
    ratios = torch.stack([level.sigma / level.alpha for level in levels])
    assert (ratios.diff() < 0).all()
    assert (levels[-1].alpha, levels[-1].sigma) == (1, 0)


@pytest.mark.parametrize("n", [0, 1001])
def test_a_number_of_steps_that_does_not_fit_is_refused(n):
    for name in GRIDS:
        with pytest.raises(ValueError, match=f"{n} sampling steps"):
            GRIDS[name](LATENT, n)


def test_karras_is_edms_equation_5():
    schedule = VE(0.002, 80.0)
    found = [float(level.sigma) for level in GRIDS["edm"](schedule, 18)]
    top, bottom = 80 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(top + i / 17 * (bottom - top)) ** 7 for i in range(18)]
    assert found == pytest.approx([*expected, 0])


def test_exponential_is_even_in_log_sigma_and_between_the_tables_ends():
    levels = GRIDS["exponential"](LATENT, 20)
    log_snr = torch.stack([level.log_snr for level in levels[:-1]])
    assert labels(levels)[0] == 999
    assert labels(levels)[-1] == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(log_snr.diff(), log_snr.diff()[:1].expand(19))


@pytest.mark.parametrize("strength, kept", [(1.0, 20), (0.75, 15), (0.5, 10), (0.04, 0), (0.0, 0)])
def test_renoise_keeps_the_last_part_of_the_steps(strength, kept):
    x0, noise = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    levels = GRIDS["trailing"](LATENT, 20)
    x, rest = renoise(x0, noise, levels, strength)
    assert len(rest) == kept + 1
    assert rest == levels[20 - kept :]
    torch.testing.assert_close(x, rest[0].alpha * x0 + rest[0].sigma * noise)
    if not kept:
        assert torch.equal(x, x0)
