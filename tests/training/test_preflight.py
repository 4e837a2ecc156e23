"""The figures before the first step, against counts by hand."""

from torch import nn

from ldm.conditions.conditioner import build_conditioner
from ldm.config import ConditioningConfig, TrainConfig
from ldm.training.preflight import budget, cut_captions

MODULES = {"net": nn.Linear(5000, 8000, bias=False)}  # 4e7 weights
TRAIN = TrainConfig(steps=100, batch_size=24, accumulation=3, keep_checkpoints=2)


def rows(**options):
    train = TrainConfig(**{**vars(TRAIN), **options})
    return budget(MODULES, train, images=120, processes=2)


def test_sizes_are_those_of_float32_weights_gradients_moments_and_averages():
    plain = rows()
    assert plain["trained parameters"] == "net 40.00 M"
    assert plain["global batch"].startswith("24 = 2 process(es) x 3 accumulation x 4")
    assert plain["steps per epoch"] == "5.0; 100 steps are 20.0 epochs"
    assert plain["memory"].startswith("0.75 GiB")  # 20 bytes each
    assert plain["disk"] == "at most 3 checkpoints, 1.79 GiB"  # 16 bytes each
    two_more = rows(ema_snapshots=40)  # averages, whose three snapshots stay
    assert two_more["memory"].startswith("1.04 GiB")
    assert two_more["disk"] == "at most 3 checkpoints, 2.68 GiB; 3 EMA snapshots, 0.89 GiB"


def test_captions_that_the_text_encoder_cannot_hold_are_counted():
    conditioner = build_conditioner(ConditioningConfig(model={"max_position_embeddings": 8}))
    short, long = ("a rose", "a red rose"), ("a rose", "a rose that goes on for ever and ever")
    assert cut_captions(conditioner, [short, short, ()]) == {}
    found = cut_captions(conditioner, [short, long, long])
    assert found == {"long captions": "1 of 3 lose what lies beyond 8 tokens"}


def test_under_muon_the_memory_is_a_bound():
    assert rows(optimizer="muon")["memory"].startswith("at most 0.75 GiB")


def test_a_checkpoint_holds_the_frozen_weights_too():
    frozen = nn.Linear(5000, 8000, bias=False).requires_grad_(False)
    found = budget(MODULES | {"frozen": frozen}, TRAIN, images=120, processes=2)
    assert found["memory"].startswith("0.75 GiB")  # of training state
    assert found["disk"] == "at most 3 checkpoints, 2.24 GiB"  # 16 bytes and 4
