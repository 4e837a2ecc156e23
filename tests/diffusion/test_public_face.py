"""What `ldm.diffusion` offers, by those names alone and on tensors of any rank."""

import pytest
import torch

import ldm.diffusion as core
from ldm.diffusion.learned import Learned, vlb_loss
from ldm.diffusion.plane import fit

FACE = (
    "GRIDS PREDICTIONS SAMPLERS SCHEDULES TIME_SAMPLERS WEIGHTINGS "
    "Contract Denoiser Estimate Level Network Noise Prediction Sampler Schedule State "
    "cfg clamp denoiser denoising_loss elbo inpaint mixture noised ode_log_prob renoise resolve "
    "steer threshold"
)
SCHEDULE, V = core.SCHEDULES["scaled_linear"](), core.PREDICTIONS["v"]
GENERATOR = torch.Generator().manual_seed(0)
X, X0, *Z = torch.randn(12, 2, 3, 2, 4, generator=GENERATOR, dtype=torch.float64)
FEW = {"langevin": {"corrections": 2}}
any_rank = pytest.mark.parametrize("shape", [(2, 3, 8), (2, 3, 2, 2, 2)], ids=["3-D", "5-D"])


def network(x, level):
    """It treats every element alike, so that a shape is a way to look at the same numbers."""
    return (x + fit(level.t, x)).sin()


def test_the_public_names_are_these():
    assert sorted(core.__all__) == sorted(FACE.split())
    assert all(hasattr(core, name) for name in core.__all__)


@any_rank
@pytest.mark.parametrize("name", core.SAMPLERS)
def test_a_sampler_takes_x_of_any_rank(name, shape):
    def sample(view):
        denoise = core.clamp(core.denoiser(network, SCHEDULE, V), 3.0)
        levels, options = core.GRIDS["trailing"](SCHEDULE, 4), FEW.get(name, {})
        states = core.SAMPLERS[name](denoise, view(X), levels, lambda i: view(Z[i]), **options)
        return list(states)[-1].x

    found = sample(lambda z: z.reshape(shape))
    assert torch.equal(found, sample(lambda z: z).reshape(shape))


@any_rank
@pytest.mark.parametrize("name", core.WEIGHTINGS)
@pytest.mark.parametrize("learned", [False, True])
def test_a_loss_takes_x_of_any_rank(name, learned, shape):
    def twice(x, level):
        f = network(x, level)
        return torch.cat([f, f.cos()], 1) if learned else f

    def loss(view):
        t = core.TIME_SAMPLERS["uniform"](torch.tensor([0.2, 0.9], dtype=torch.float64), SCHEDULE)
        weighting = core.WEIGHTINGS[name]
        return core.denoising_loss(twice, SCHEDULE, V, view(X0), view(X), t, weighting)

    torch.testing.assert_close(loss(lambda z: z.reshape(shape)), loss(lambda z: z))


@any_rank
def test_likelihoods_take_x_of_any_rank(shape):
    levels = core.GRIDS["trailing"](SCHEDULE, 4)
    denoise, signs = core.denoiser(network, SCHEDULE, V), X.sign()
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)

    def figures(view):
        bound = core.elbo(denoise, view(X0), levels, lambda i: view(Z[i]))
        flow = core.ode_log_prob(denoise, SCHEDULE, view(X0), view(signs)[None], steps=2)
        vlb = vlb_loss(network, Learned(), V, view(X0), view(X), t)
        return bound.total, flow.log_prob, vlb.detach()

    plain, viewed = figures(lambda z: z), figures(lambda z: z.reshape(shape))
    torch.testing.assert_close(viewed, plain)


@any_rank
def test_what_changes_a_network_or_a_denoiser_takes_x_of_any_rank(shape):
    level = SCHEDULE.level(torch.tensor(0.5, dtype=torch.float64))

    def changed(view):
        worse = core.cfg(network, lambda x, level: x.cos(), 3.0, rescale=0.5)
        denoise = core.threshold(core.denoiser(worse, SCHEDULE, V))
        denoise = core.inpaint(denoise, view(X0), view(Z[0]), view(Z[1] > 0).double())
        steered = core.steer(denoise, lambda x, level: x.flatten(1).square().sum(1))
        return steered(view(X), level).x0

    found = changed(lambda z: z.reshape(shape))
    torch.testing.assert_close(found, changed(lambda z: z).reshape(shape))
