import itertools

import numpy as np
import pytest

from ldm.core.errors import UserError
from ldm.data.order import Slot, micro_batches, permutation, slot_at, subset


def flat(batches) -> list[Slot]:
    return [slot for batch in batches for slot in batch]


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_a_permutation_holds_every_index_once(n):
    assert sorted(permutation(3, 5, n)) == list(range(n))


def test_the_permutation_is_the_same_on_every_machine():
    assert permutation(0, 0, 12).tolist() == [1, 4, 9, 11, 3, 0, 2, 6, 8, 10, 5, 7]


def test_epochs_and_seeds_are_shuffled_apart():
    orders = [tuple(permutation(s, e, 100)) for s in range(3) for e in range(3)]
    assert len(set(orders)) == 9


def test_places_in_the_order_are_uniform():
    first = np.array([permutation(s, 0, 10) for s in range(4000)])
    counts = np.stack([np.bincount(column, minlength=10) for column in first.T])
    chi2 = ((counts - 400) ** 2 / 400).sum()
    assert chi2 < 81 + 5 * np.sqrt(2 * 81)  # 9 x 9 degrees of freedom, five sigma


def test_a_subset_is_drawn_from_the_whole_range():
    assert subset(5, 9) == subset(5, 5) == [0, 1, 2, 3, 4]
    assert subset(5, 0) == []
    few = subset(500, 50, seed=1)
    assert len(set(few)) == 50 and few == sorted(few) and few != subset(500, 50, seed=2)
    counts = np.histogram(few, bins=5, range=(0, 500))[0]  # five classes, one folder after another
    assert counts.min() >= 10 - 3 * np.sqrt(50 * 0.2 * 0.8)


def test_each_epoch_sees_every_example_once_across_batch_ends():
    slots = flat(micro_batches(1, n=10, batch_size=4, stop=5))
    assert [s.epoch for s in slots] == [0] * 10 + [1] * 10
    for epoch in (0, 1):
        assert sorted(s.index for s in slots if s.epoch == epoch) == list(range(10))


def test_a_batch_larger_than_the_data_set_runs_through_several_epochs():
    (batch,) = micro_batches(0, n=3, batch_size=8, stop=1)
    assert [s.epoch for s in batch] == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(("accumulation", "world"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 3)])
def test_every_split_over_processes_and_accumulation_sees_the_same_slots(accumulation, world):
    whole = flat(micro_batches(7, n=31, batch_size=24, stop=4))
    parts = [
        list(micro_batches(7, 31, 24, accumulation, world, rank, stop=4)) for rank in range(world)
    ]
    assert all(len(part) == 4 * accumulation for part in parts)
    # the m-th micro-batch of a step is the ranks' lists side by side
    together = flat(itertools.chain.from_iterable(zip(*parts, strict=True)))
    assert together == whole


def test_starting_at_a_step_continues_as_if_never_stopped():
    whole = list(micro_batches(7, n=31, batch_size=8, accumulation=2, stop=9))
    assert list(micro_batches(7, 31, 8, 2, start=4, stop=9)) == whole[8:]


def test_without_a_stop_the_order_is_endless():
    endless = micro_batches(0, n=3, batch_size=2)
    assert len(list(itertools.islice(endless, 1000))) == 1000


def test_without_shuffling_the_order_is_the_sources_own():
    slots = flat(micro_batches(0, n=5, batch_size=4, stop=3, shuffle=False))
    assert [s.index for s in slots] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]


def test_a_slot_knows_its_place():
    assert slot_at(0, n=10, batch_size=4, step=2, slot=3) == Slot(
        step=2, slot=3, index=int(permutation(0, 1, 10)[1]), epoch=1
    )


def test_a_batch_that_does_not_divide_is_refused_before_the_first_one():
    with pytest.raises(UserError, match=r"batch of 10 .* multiple of 4"):
        micro_batches(0, n=10, batch_size=10, accumulation=2, world=2)


def test_an_empty_data_set_is_refused():
    with pytest.raises(UserError, match="empty"):
        micro_batches(0, n=0, batch_size=1)
