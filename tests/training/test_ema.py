import torch
from torch import nn

from ldm.training.ema import EMA


def test_the_average_is_the_one_of_the_recursion():
    module = nn.Linear(3, 2)
    ema = EMA(module, 0.9)
    expected = module.weight.detach().double().clone()
    for step in range(1, 40):
        with torch.no_grad():
            module.weight.normal_()
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.double()
    torch.testing.assert_close(ema.state_dict()["weight"].double(), expected, atol=1e-6, rtol=0)


def test_an_average_of_bfloat16_weights_still_moves():
    module = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.constant_(module.weight, 1.0)
    ema = EMA(module, 0.9999)
    nn.init.constant_(module.weight, 2.0)
    for step in range(100_000, 100_100):
        ema.update(step)
    torch.testing.assert_close(
        ema.state_dict()["weight"], torch.full((1, 1), 2 - 0.9999**100), atol=1e-5, rtol=0
    )


def test_applied_puts_the_average_in_and_the_weights_back():
    module = nn.Linear(3, 2)
    ema = EMA(module, 0.5)
    average = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1)
    own = module.weight.detach().clone()
    with ema.applied():
        assert torch.equal(module.weight, average)
    assert torch.equal(module.weight, own)


def test_frozen_parameters_are_not_averaged():
    module = nn.Linear(3, 2)
    module.bias.requires_grad_(False)
    assert list(EMA(module, 0.9).state_dict()) == ["weight"]
