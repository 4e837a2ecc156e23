"""A checkpoint gives an optimizer back its state, bit for bit, in any memory layout."""

import copy
import shutil

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from ldm.core.errors import UserError
from ldm.core.share import ALONE
from ldm.training.post_hoc_ema import LENGTHS, PowerEMA
from ldm.training.state import TrainingState, load_optimizer_tensors, optimizer_tensors


def test_a_restored_optimizer_steps_as_the_original_does_in_channels_last():
    torch.manual_seed(0)
    network = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    x = torch.randn(2, 4, 6, 6)

    def step(network, optimizer):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()

    step(network, optimizer)
    twin = copy.deepcopy(network)
    stored = {
        k: v.clone(memory_format=torch.contiguous_format)
        for k, v in optimizer_tensors(optimizer).items()
    }
    restored = torch.optim.AdamW(twin.parameters(), fused=True)
    load_optimizer_tensors(restored, stored)
    for _ in range(2):
        step(network, optimizer)
        step(twin, restored)
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_a_checkpoint_lacks_is_named(tmp_path):
    def state(lengths, width=2):
        module = nn.Linear(width, 2)
        optimizer = torch.optim.AdamW(module.parameters())
        averages = {"averages": PowerEMA(module, lengths)}
        modules, optimizers = {"ldm": module}, {"ldm": optimizer}
        return TrainingState(
            Accelerator(cpu=True), ALONE, tmp_path, modules, optimizers, averages, {}
        )

    state(()).save(3, keep=1)
    assert state(()).resume() == 3
    with pytest.raises(UserError, match=r"^this run has kept no averages.*train\.ema_snapshots"):
        state(LENGTHS).resume()
    with pytest.raises(UserError, match="of another model than this config describes"):
        state((), width=3).resume()


def test_a_checkpoint_made_of_other_facts_is_refused(tmp_path):
    def state(**facts):
        module = nn.Linear(2, 2)
        optimizers = {"ldm": torch.optim.AdamW(module.parameters())}
        return TrainingState(
            Accelerator(cpu=True), ALONE, tmp_path, {"ldm": module}, optimizers, {}, facts
        )

    made = {"classes": ("daisy", "rose"), "optimizer": "muon"}
    state(**made).save(3, keep=1)
    assert state(**made).resume() == 3
    with pytest.raises(UserError, match=r'made with classes \["daisy", "rose"\], and this is null'):
        state(optimizer="muon").resume()
    with pytest.raises(
        UserError, match=r"optimizer muon, and this is adamw: restore it, or give an"
    ):
        state(**made | {"optimizer": "adamw"}).resume()


def small_state(folder, data=None):
    module = nn.Linear(2, 2)
    optimizers = {"ldm": torch.optim.AdamW(module.parameters())}
    accelerator = Accelerator(cpu=True)
    return TrainingState(accelerator, ALONE, folder, {"ldm": module}, optimizers, {}, {}, data)


def test_a_run_whose_checkpoints_are_gone_does_not_begin_again_in_silence(tmp_path):
    folder = tmp_path / "ldm" / "checkpoints"
    small_state(folder).save(3, keep=1)
    kept = (folder / "step_0000003").rename(tmp_path / "kept")
    with pytest.raises(UserError, match=r"saved checkpoints.*none in .*remove .*ldm to begin anew"):
        small_state(folder).resume()
    folder.rmdir()
    with pytest.raises(UserError, match="put one back under its own name"):
        small_state(folder).resume()
    folder.mkdir()
    kept.rename(folder / "step_0000003")
    assert small_state(folder).resume() == 3
    shutil.rmtree(tmp_path / "ldm")
    assert small_state(folder).resume() == 0


def test_what_may_change_between_sessions_is_told(tmp_path):
    small_state(tmp_path, {"the images": "a", "the captions": "b"}).save(3, keep=1)
    for now, said in [
        ({"the images": "a", "the captions": "b"}, ""),
        ({"the images": "a", "the captions": "c"}, "the captions have changed since step 3"),
        ({"the images": "d", "the captions": "c"}, "the images have changed since step 3"),
        ({"the prompts": "new in this version"}, ""),
    ]:
        state = small_state(tmp_path, now)
        assert state.resume() == 3 and state.changes == said
