"""Each term of the loss against a formula written independently of it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal
from torch.distributions import kl_divergence as kl_of_distributions

from autoencoder.loss.terms import (
    adaptive_weight,
    hinge_discriminator,
    hinge_generator,
    kl_divergence,
    lecam_penalty,
    non_saturating_discriminator,
    non_saturating_generator,
    r1_penalty,
    reconstruction_loss,
)
from ldm.core.errors import UserError


def test_kl_is_that_of_torch_distributions():
    torch.manual_seed(0)
    mean, logvar = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    expected = kl_of_distributions(Normal(mean, (0.5 * logvar).exp()), Normal(0, 1))
    torch.testing.assert_close(kl_divergence(mean, logvar), expected.mean((1, 2, 3)))


@pytest.mark.parametrize(("kind", "expected"), [("l1", [1.0, 2.0]), ("l2", [1.0, 4.0])])
def test_reconstruction_is_the_mean_over_elements(kind, expected):
    target = torch.zeros(2, 3, 4, 4)
    output = target + torch.tensor([1.0, -2.0])[:, None, None, None]
    assert reconstruction_loss(output, target, kind).tolist() == expected


def test_an_unknown_reconstruction_is_refused():
    with pytest.raises(UserError, match=r"reconstruction='l3'.*l1 or l2"):
        reconstruction_loss(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), "l3")


def test_hinge_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0, 3.0])
    # real: max(0, 1 - r) = 0, 0.5, 2; fake: max(0, 1 + f) = 0, 1, 4
    assert float(hinge_discriminator(real, fake)) == pytest.approx((2.5 / 3 + 5 / 3) / 2)
    assert float(hinge_generator(fake)) == pytest.approx(-1 / 3)
    nothing = torch.zeros(4)
    assert float(hinge_discriminator(nothing, nothing)) == 1.0


def test_non_saturating_is_cross_entropy():
    torch.manual_seed(0)
    real, fake = torch.randn(2, 7, dtype=torch.float64)
    entropy = F.binary_cross_entropy_with_logits
    discriminator = (
        entropy(real, torch.ones_like(real)) + entropy(fake, torch.zeros_like(fake))
    ) / 2
    torch.testing.assert_close(non_saturating_discriminator(real, fake), discriminator)
    torch.testing.assert_close(non_saturating_generator(fake), entropy(fake, torch.ones_like(fake)))
    nothing = torch.zeros(4)
    assert float(non_saturating_discriminator(nothing, nothing)) == pytest.approx(math.log(2))


def test_r1_of_a_quadratic_is_half_its_squared_gradient():
    x = torch.tensor([[[[3.0, 4.0]]], [[[1.0, 0.0]]]], requires_grad=True)
    a = torch.tensor(2.0, requires_grad=True)
    penalty = r1_penalty(x, (0.5 * a * x.square()).sum((1, 2, 3)))  # its gradient is a·x
    assert penalty.item() == pytest.approx(0.5 * 4 * (25 + 1) / 2)
    penalty.backward()  # differentiable in the discriminator's weights: d/da ½ a² |x|²
    assert float(a.grad) == pytest.approx(2 * 13)


def test_lecam_counts_only_logits_beyond_the_other_sides_mean():
    real, fake = torch.tensor([3.0, -2.0]), torch.tensor([1.0, -4.0])
    penalty = lecam_penalty(real, fake, torch.tensor(2.0), torch.tensor(-1.0))
    # real above the fakes' mean -1: (4, 0); fake below the reals' mean 2: (1, 6)
    assert float(penalty) == pytest.approx(16 / 2 + 37 / 2)


def test_the_adaptive_weight_makes_both_gradients_equally_long():
    reconstruction, generator = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.5])
    assert float(adaptive_weight(reconstruction, generator)) == pytest.approx(5 / 0.5001)
    assert float(adaptive_weight(reconstruction, torch.zeros(2))) == 1e4  # and no further
