import subprocess
import sys

import torch
from scipy.stats import kstest

from ldm.core import keyed


def test_a_key_gives_the_same_numbers_in_another_process():
    shown = "keyed.uniform(3, 'a', 5), keyed.normal((2,), 1, 'x').tolist()"
    code = f"from ldm.core import keyed; print(({shown}))"
    there = subprocess.check_output([sys.executable, "-c", code])
    here = (keyed.uniform(3, "a", 5), keyed.normal((2,), 1, "x").tolist())
    assert there.decode() == f"{here}\n"


def test_keys_that_look_alike_differ():
    keys = [(1, 2), (12,), ("1", 2), ("12",), (1, "2"), (2, 1)]
    assert len({keyed.uniform(*key) for key in keys}) == len(keys)


def test_uniforms_are_uniform_and_normals_normal():
    u = keyed.example_uniform(0, 0, range(2000), "t")
    z = keyed.example_normal((5,), 0, 0, range(400), "noise").flatten()
    assert kstest(u.numpy(), "uniform").pvalue > 0.01
    assert kstest(z.numpy(), "norm").pvalue > 0.01


def test_noise_of_a_slot_does_not_depend_on_its_batch():
    whole = keyed.example_normal((2, 3), 0, 4, range(8), "noise")
    part = keyed.example_normal((2, 3), 0, 4, [5, 2], "noise")
    assert torch.equal(part, whole[[5, 2]])


def test_stratified_numbers_fill_every_stratum_once():
    u = keyed.example_stratified(0, 9, range(64), 64, "t")
    assert torch.equal((u * 64).floor().sort().values, torch.arange(64).double())
    assert torch.equal(keyed.example_stratified(0, 9, [3, 50], 64, "t"), u[[3, 50]])


def test_integers_cover_their_range_evenly():
    drawn = torch.tensor([keyed.integer("die", k, below=6) for k in range(6000)])
    counts = torch.bincount(drawn, minlength=6)
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-square with 5 degrees, p = 0.001
