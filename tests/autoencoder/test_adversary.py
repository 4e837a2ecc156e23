"""The adversary: both sides learn where they must, neither leaks, and it begins when it should."""

import pytest
import torch
from torch import nn

from autoencoder.loss.discriminator import AT_PLATEAU, HEAD_START, Adversary, PatchDiscriminator
from ldm.config import AutoencoderLossConfig
from ldm.core.errors import UserError


def adversary(**settings) -> Adversary:
    torch.manual_seed(0)
    return Adversary(AutoencoderLossConfig(adversarial=1.0, **settings), resolution=16)


def stripes(vertical: bool, count: int = 4) -> torch.Tensor:
    """Images (count, 3, 16, 16) of stripes of two pixels, at random phases."""
    wave = torch.tensor([1.0, 1, -1, -1]).repeat(5)
    phases = torch.randint(4, (count,), generator=torch.manual_seed(1)).tolist()
    rows = torch.stack([wave[p : p + 16] for p in phases])
    plane = rows[:, None, None, :] if vertical else rows[:, None, :, None]
    return plane.expand(count, 3, 16, 16).clone()


@pytest.mark.parametrize("kind", ["hinge", "non_saturating"])
def test_the_discriminator_learns_to_tell_two_textures_apart(kind):
    judge = adversary(adversarial_kind=kind)
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.5, 0.9))
    for _ in range(15):
        loss, figures = judge(stripes(True), stripes(False))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(figures["accuracy"]) > 0.95
    assert float(figures["real_logit"]) > 0 > float(figures["fake_logit"])


def test_a_generator_learns_the_texture_from_the_discriminator_alone():
    judge = adversary(r1=0.1)
    fake = nn.Parameter(0.01 * torch.randn(4, 3, 16, 16, generator=torch.manual_seed(2)))
    ours = torch.optim.Adam([fake], lr=0.05, betas=(0.5, 0.9))
    theirs = torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.5, 0.9))

    def vertical(x: torch.Tensor) -> float:
        """How much of an image's energy lies in vertical stripes of that period."""
        power = torch.fft.fft2(x.detach()).abs().square().mean((0, 1))
        return float(power[0, 4] / power.sum() * 2)

    assert vertical(stripes(True)) > 0.99 and vertical(fake) < 0.1
    for _ in range(30):
        ours.zero_grad()
        judge.judge(fake.tanh()).backward()
        ours.step()
        theirs.zero_grad()
        judge(stripes(True), fake.tanh().detach())[0].backward()
        theirs.step()
    assert vertical(fake.tanh()) > 0.5


def test_the_generators_loss_gives_the_discriminator_no_gradient():
    judge = adversary()
    fake = stripes(False).requires_grad_()
    judge.judge(fake).backward()
    assert all(p.grad is None for p in judge.parameters())
    assert float(fake.grad.abs().sum()) > 0


def test_the_discriminators_loss_gives_the_generator_no_gradient():
    judge = adversary(r1=1.0, lecam=1.0)
    fake = stripes(False).requires_grad_()
    judge(stripes(True), fake)[0].backward()
    assert fake.grad is None
    assert all(p.grad is not None for p in judge.parameters())


def test_a_logit_sees_a_patch_not_the_image():
    network = PatchDiscriminator(layers=2)
    for module in network:
        if isinstance(module, nn.GroupNorm):  # its statistics are of the whole image
            module.forward = lambda x: x
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    logits = network(x + 0.1)
    assert logits.shape == (1, 1, 14, 14)
    logits[0, 0, 7, 7].backward()
    reach = x.grad.abs().sum((0, 1)).nonzero()
    height, width = (reach.max(0).values - reach.min(0).values + 1).tolist()
    assert height == width == 34


def test_one_process_judges_a_batch_as_two_judge_its_halves():
    judge = adversary()
    real, fake = stripes(True, 4), stripes(False, 4)
    whole = judge(real, fake)[0]
    halves = [judge(real[i : i + 2], fake[i : i + 2])[0] for i in (0, 2)]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_it_has_a_head_start_over_the_generator():
    judge = adversary(adversarial_start=1000)
    assert [judge.learns(s) for s in (999 - HEAD_START, 1000 - HEAD_START)] == [False, True]
    assert [judge.speaks(s) for s in (999, 1000)] == [False, True]


def test_a_resumed_run_begins_it_where_the_config_now_says():
    again = adversary(adversarial_start=400)
    again.load_state_dict(adversary(adversarial_start=1000).state_dict())
    assert [again.learns(s) for s in (399 - HEAD_START, 400 - HEAD_START)] == [False, True]


def test_it_begins_when_the_reconstruction_stops_improving():
    judge = adversary(adversarial_start=AT_PLATEAU)
    began = None
    for step in range(6000):
        falling = 0.1 + 0.9 * 0.5 ** (step / 300)  # within 0.1 % of 0.1 from step 3000 on
        judge.remember(step, falling, (0.0, 0.0))
        if judge.learns(step + 1):
            began = step + 1
            break
    assert began is not None and 2000 < began < 5000
    assert not judge.speaks(began) and judge.speaks(began + HEAD_START)
    again = adversary(adversarial_start=AT_PLATEAU)
    again.load_state_dict(judge.state_dict())  # a checkpoint remembers it
    assert again.learns(began) and not again.learns(began - 1)


def test_a_step_that_was_not_finite_leaves_no_trace_in_its_memory():
    judge = adversary(lecam=1.0)
    judge.remember(0, 0.5, (1.0, -1.0))
    before = {k: v.clone() for k, v in judge.state_dict().items()}
    judge.remember(1, float("nan"), (2.0, float("inf")))
    assert all(torch.equal(v, before[k]) for k, v in judge.state_dict().items())


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="adversarial_kind='wgan' is not one of hinge"):
        adversary(adversarial_kind="wgan")
