"""One motion for a key, whose increments are what a Brownian motion's are."""

import pytest
import torch

from ldm.core.brownian import brownian


def test_increments_add_up_in_whatever_order_they_are_asked():
    whole, late = brownian((50,), 0.1, 3.0, "a"), brownian((50,), 0.7, 3.0, "a")
    torch.testing.assert_close(brownian((50,), 0.1, 0.7, "a") + late, whole)
    assert torch.equal(brownian((50,), 0.1, 3.0, "a"), whole)
    assert not torch.equal(brownian((50,), 0.1, 3.0, "b"), whole)


@pytest.mark.parametrize("times", [(0.0, 1e-3, 0.7), (0.7, 0.71, 5.0), (5.0, 9.0, 2e3)])
def test_they_are_normal_independent_and_as_wide_as_their_time(times):
    s, t, u = times
    first, second = brownian((20_000,), s, t), brownian((20_000,), t, u)
    z = torch.stack([first / (t - s) ** 0.5, second / (u - t) ** 0.5])
    torch.testing.assert_close(z @ z.T / 20_000, torch.eye(2), rtol=0, atol=0.04)  # 4 deviations
    torch.testing.assert_close(z.pow(4).mean(1), torch.tensor([3.0, 3.0]), rtol=0, atol=0.3)
