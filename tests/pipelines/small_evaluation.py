"""A tiny run that was really evaluated, within seconds."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipeline, write_run

from ldm.config import DataConfig, load_config, save_config
from ldm.core.share import Share
from ldm.data.source import open_source
from ldm.evaluation.features.network import random_feature_network, save_feature_network
from ldm.evaluation.sweep import PRESETS
from ldm.training.post_hoc_ema import PowerEMA
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.parts import ema as evaluation_ema
from pipelines.evaluation.subject.amounts import Amounts
from pipelines.evaluation.subject.evaluated import Evaluated

DATA = DataConfig(size=60, resolution=16, holdout=0.35)
AMOUNTS = Amounts(
    samples=20, sweep_samples=20, examples=6, bound=(4, 5), flow=(2, 2), lengths=(0.05,)
)
SWEEP = (("ddim", 1, None), ("ddim", 2, None), ("heun", 2, None), ("dpmpp_2m", 20, 1.0))


@contextmanager
def small():
    """Fewer settings than a real sweep has, and no attempt to download anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setitem(PRESETS, "quick", SWEEP)
        patch.setattr(evaluation_ema, "EMA_SETTING", {"sampler": "ddim", "steps": 2})
        yield


def trained_run(folder: Path) -> Path:
    """A run on 60 drawn flowers of 16 x 16 pixels, with two EMA snapshots."""
    run = write_run(folder)
    config = load_config(run / "config.yaml")
    save_config(replace(config, data=DATA), run / "config.yaml")
    ema = PowerEMA(torch.nn.ModuleDict({"unet": tiny_pipeline().unet}))
    for step in (1, 2):
        ema.update(step)
        ema.snapshot(run / "ldm" / "ema", step)
    return run


def features_in(folder: Path) -> str:
    """Untrained features, as --features takes them."""
    save_feature_network(random_feature_network(16), folder, {"data": "nothing", "steps": 0})
    return f"trained:{folder}"


def evaluated_run(folder: Path) -> Path:
    """The run with its results."""
    run = trained_run(folder)
    with small():
        evaluate(str(run), AMOUNTS, features_in(folder / "features"))
    return run


def subject(share=None, folder=None):
    sources = {s: open_source(DATA, s) for s in ("train", "validation")}
    return Evaluated(tiny_pipeline(), sources, 16, folder, None, 0, share or Share())
