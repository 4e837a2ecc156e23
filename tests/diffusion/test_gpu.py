"""The same numbers on a GPU: levels and tables may stay on the CPU, x need not."""

import pytest
import torch

from ldm.diffusion.contract import Contract
from ldm.diffusion.denoise import boundary, clamp, denoiser, threshold
from ldm.diffusion.grids import GRIDS
from ldm.diffusion.guidance import cfg, steer, steer_x0
from ldm.diffusion.learned import vlb_loss
from ldm.diffusion.loss import TIME_SAMPLERS, WEIGHTINGS, denoising_loss
from ldm.diffusion.plane import V
from ldm.diffusion.samplers import SAMPLERS
from ldm.diffusion.schedules import SCHEDULES, snap
from ldm.training.tasks.times import Importance

pytestmark = pytest.mark.gpu
NAMES = sorted(set(SCHEDULES) - {"table"})
X, *Z = torch.randn(30, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.2, 0.7], dtype=torch.float64)


def network(x, level):
    return 0.3 * x.sin()


def on_both(make):
    """What `make(device)` gives on the CPU and on the GPU is one and the same."""
    here, there = make("cpu"), make("cuda")
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)


def schedule_on(name, device):
    schedule = SCHEDULES[name]()
    return schedule.to(device) if isinstance(schedule, torch.nn.Module) else schedule


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("name", SAMPLERS)
@torch.no_grad()
def test_samplers(name, schedule):
    options = {"corrections": 1} if name == "langevin" else {}

    def sample(device):
        made = schedule_on(schedule, device)
        denoise = threshold(
            clamp(boundary(denoiser(network, made, V), Contract.of(made, V).label)), largest=2.0
        )
        levels, x = GRIDS["trailing"](made, 6), X.to(device)
        noise = [z.to(device) for z in Z]
        return list(SAMPLERS[name](denoise, x, levels, noise=lambda i: noise[i], **options))[-1].x

    on_both(sample)


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_losses(name, schedule):
    def loss(device, out=network):
        made = schedule_on(schedule, device)
        t = snap(made, T.to(device))
        x = X.to(device)
        return denoising_loss(out, made, V, x, x + 1, t, WEIGHTINGS[name]).detach()

    on_both(loss)
    on_both(lambda device: loss(device, lambda x, level: torch.cat([x, 0.1 * x], 1)))


@pytest.mark.parametrize("name", TIME_SAMPLERS)
def test_time_samplers(name):
    on_both(lambda device: TIME_SAMPLERS[name](T.to(device), SCHEDULES["linear"]()))


def test_importance():
    on_both(lambda device: Importance()(T.to(device), SCHEDULES["linear"]()))


def test_the_learned_schedule_learns():
    def gradient(device):
        made = schedule_on("learned", device)
        x = X.to(device)
        vlb_loss(network, made, V, x, x + 1, T.to(device)).sum().backward()
        return made.center.grad

    on_both(gradient)


def test_guidance():
    made = SCHEDULES["flow"]()
    level = made.level(torch.tensor(0.5, dtype=torch.float64))
    denoise = denoiser(cfg(network, lambda x, _: -x, 3.0, rescale=0.7), made, V)
    on_both(lambda d: steer(denoise, lambda x, _: -(x**2).sum((1, 2, 3)))(X.to(d), level).x0)
    on_both(lambda d: steer_x0(denoise, lambda x: -(x**2).sum((1, 2, 3)), 1.0)(X.to(d), level).x0)
