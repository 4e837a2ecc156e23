import math
from itertools import pairwise

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ldm.config import TrainConfig
from ldm.training.optim import Diverged, GuardedStep, adamw, learning_rate


def test_learning_rate_warms_up_and_ends_at_zero():
    config = TrainConfig(steps=100, warmup=10, learning_rate=2.0)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0) and rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_a_constant_rate_stays():
    config = TrainConfig(steps=100, warmup=0, learning_rate=2.0, decay="constant")
    assert {learning_rate(step, config) for step in range(100)} == {2.0}


def test_biases_and_gains_do_not_decay():
    module = nn.Sequential(nn.Linear(3, 3), nn.GroupNorm(1, 3))
    matrices, vectors = adamw(module.parameters(), TrainConfig(weight_decay=0.1)).param_groups
    assert [p.ndim for p in matrices["params"]] == [2] and matrices["weight_decay"] == 0.1
    assert {p.ndim for p in vectors["params"]} == {1} and vectors["weight_decay"] == 0.0


@pytest.fixture
def guarded():
    module = nn.Linear(2, 1)
    accelerator = Accelerator(cpu=True)
    optimizer = adamw(module.parameters(), TrainConfig(learning_rate=0.1))
    module, optimizer = accelerator.prepare(module, optimizer)
    return module, GuardedStep(accelerator, optimizer, module.parameters(), clip=1.0)


def backward(module, scale):
    loss = module(torch.ones(1, 2)).sum() * scale
    loss.backward()
    return loss.item()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_batch_changes_nothing_and_the_next_is_taken(guarded, bad):
    module, step = guarded
    before = module.weight.detach().clone()
    step(backward(module, bad), 0.1)
    assert torch.equal(module.weight, before) and not step.optimizer.state
    assert step.skipped == 1
    step(backward(module, 1.0), 0.1)
    assert not torch.equal(module.weight, before)
    assert step.skipped_in_a_row == 0


def test_ten_bad_batches_in_a_row_stop_the_run(guarded):
    module, step = guarded
    for _ in range(9):
        step(backward(module, math.nan), 0.1)
    with pytest.raises(Diverged, match="10 steps in a row"):
        step(backward(module, math.nan), 0.1)


def test_the_gradient_is_clipped_to_its_norm(guarded):
    module, step = guarded
    loss = backward(module, 100.0)
    norm = step(loss, 0.0)
    assert norm == pytest.approx(100 * math.sqrt(3), rel=1e-5)


def test_without_a_limit_the_gradient_stays_as_it_is(guarded):
    module, step = guarded
    free = GuardedStep(step.accelerator, step.optimizer, module.parameters(), clip=0)
    before = module.bias.detach().clone()  # which no decay moves
    assert free(backward(module, 100.0), 0.1) == pytest.approx(100 * math.sqrt(3), rel=1e-5)
    assert not torch.equal(module.bias, before)
