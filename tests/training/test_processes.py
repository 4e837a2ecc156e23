"""The config says how a run accumulates, compiles and rounds; no variable overrules it."""

import pytest
import torch
from accelerate.state import AcceleratorState

from ldm.config import Config, DiffusionConfig, TrainConfig
from ldm.core.errors import UserError
from ldm.training.processes import accelerator_of

TRAIN = TrainConfig(tracker="none")


@pytest.fixture(autouse=True)
def _fresh():
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def test_no_variable_divides_the_gradients_compiles_or_rounds(monkeypatch, tmp_path):
    for name, value in {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_DYNAMO_BACKEND": "EAGER",
        "ACCELERATE_DYNAMO_MODE": "max-autotune",
        "ACCELERATE_USE_FSDP": "false",
    }.items():
        monkeypatch.setenv(name, value)
    accelerator = accelerator_of(Config(), TRAIN, tmp_path)
    layer = torch.nn.Linear(3, 1)
    prepared = accelerator.prepare(layer)
    assert prepared is layer  # not compiled
    with accelerator.autocast():
        out = prepared(torch.ones(1, 3))
    assert out.dtype == torch.float32
    accelerator.backward(out.sum())
    assert layer.weight.grad.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    "variable",
    ["USE_FSDP", "USE_DEEPSPEED", "USE_MEGATRON_LM", "USE_PARALLELISM_CONFIG", "USE_SAGEMAKER"],
)
def test_what_a_variable_asks_for_and_nobody_does_here_is_refused(monkeypatch, tmp_path, variable):
    monkeypatch.setenv(f"ACCELERATE_{variable}", "true")
    with pytest.raises(UserError, match=f"ACCELERATE_{variable} asks for .* unset it"):
        accelerator_of(Config(), TRAIN, tmp_path)


@pytest.mark.parametrize(
    ("train", "says"),
    [
        (TrainConfig(tracker="no-such"), r"^train\.tracker=no-such: "),
        (TrainConfig(tracker="none", mixed_precision="fp16"), "fp16 needs a GPU"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has half precision")
def test_what_this_machine_cannot_do_is_a_sentence(tmp_path, train, says):
    with pytest.raises(UserError, match=says) as caught:
        accelerator_of(Config(), train, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_learned_schedule_is_refused_on_a_device_without_float64(monkeypatch, tmp_path):
    monkeypatch.setattr("accelerate.Accelerator.device", torch.device("mps"))
    with pytest.raises(UserError, match="needs float64, which Apple's GPUs lack"):
        accelerator_of(Config(diffusion=DiffusionConfig(schedule="learned")), TRAIN, tmp_path)
    accelerator_of(Config(), TRAIN, tmp_path)
