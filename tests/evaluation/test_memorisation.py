import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from ldm.evaluation.memorisation import Training, own_nearest


def draw(n, seed, dimension=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=generator).double()


def test_copies_are_found_and_ranked_first():
    training, samples = draw(300, 0), draw(50, 1)
    samples[7] = training[123] + 1e-3
    samples[9] = training[4]
    found = Training(training).nearest(samples)
    assert found.closest(2) == [9, 7]
    assert found.neighbour[7] == 123 and found.neighbour[9] == 4
    assert found.copied[7] and found.copied[9] and found.distance[9] < 1e-6


def test_distances_and_neighbours_are_scipys_over_several_blocks():
    training, samples = draw(2500, 0), draw(40, 1)
    apart = cdist(samples, training)
    found = Training(training).nearest(samples)
    np.testing.assert_allclose(found.distance, apart.min(1), rtol=1e-9)
    assert found.neighbour.tolist() == apart.argmin(1).tolist()
    within = cdist(training, training)
    np.fill_diagonal(within, np.inf)
    np.testing.assert_allclose(own_nearest(training), within.min(1), rtol=1e-9)
    expected = apart.min(1) / within.min(1)[apart.argmin(1)]
    np.testing.assert_allclose(found.ratio, expected, rtol=1e-9)


def test_a_copy_of_a_mirrored_training_image_is_a_copy():
    training, mirrored, samples = draw(200, 0), draw(200, 1), draw(10, 2)
    samples[3] = mirrored[77]
    assert Training(training).nearest(samples).ratio[3] > 0.1
    found = Training(training, mirrored).nearest(samples)
    assert found.neighbour[3] == 77 and found.ratio[3] < 1e-6


def test_images_of_the_same_distribution_are_not_taken_for_copies():
    training, fresh = draw(1000, 0), draw(500, 1)
    share = Training(training).nearest(fresh).copied.double().mean()
    assert 0.3 < share < 0.6  # a new image is as near as an old one about half of the time


def copies_of(images, times, jitter=0.0):
    """Every image `times` over, each moved by `jitter` of the usual distance between them."""
    every = images.repeat(times, 1)
    moved = draw(len(every), 7, images.shape[1])
    moved /= moved.norm(dim=1, keepdim=True)
    return every + jitter * own_nearest(images).median() * moved


@pytest.mark.parametrize("dimension", [5, 64])
@pytest.mark.parametrize("times", [1, 2, 20])
@pytest.mark.parametrize("jitter", [0.0, 1e-4, 0.03])
def test_recited_images_are_found_however_often_they_are_there(dimension, times, jitter):
    images, fresh = draw(100, 0, dimension), draw(200, 1, dimension)
    training = Training(copies_of(images, times, jitter))
    blurred = (
        images + 0.05 * own_nearest(images).median() * draw(100, 3, dimension) / dimension**0.5
    )
    for recited in (images, training.sets[0][:100], blurred):
        assert training.nearest(recited).copied.double().mean() >= 0.98
    # and what is new is as before
    honest = training.nearest(fresh).copied.double().mean()
    assert honest <= Training(images).nearest(fresh).copied.double().mean() + 0.02
    assert 97 <= training.distinct <= 103
    expected = 100 * times if times > 1 else 0
    assert expected * 0.97 <= training.repeated <= expected + 3


def test_copies_of_a_few_images_are_counted_and_the_others_left_as_they_are():
    images = draw(300, 0, 12)
    training = torch.cat([images, images[:10], images[10:20] + 1e-3])
    found = Training(training)
    assert found.distinct == 300 and found.repeated == 40
    alone = own_nearest(images)
    torch.testing.assert_close(found.own, torch.cat([alone, alone[:20]]), rtol=1e-2, atol=0)
    torch.testing.assert_close(found.own[20:300], alone[20:], rtol=1e-2, atol=0)


def test_a_mirrored_copy_is_a_copy_where_mirrored_images_are_trained_on():
    images, mirrored = draw(100, 0, 12), draw(100, 1, 12)
    training, turned = torch.cat([images, mirrored[:30]]), torch.cat([mirrored, images[:30]])
    assert Training(training).distinct == 130
    found = Training(training, turned)
    assert found.distinct == 100 and found.repeated == 60


def test_held_out_images_that_are_training_images_too_are_told():
    images = draw(200, 0, 12)
    held_out = torch.cat([draw(20, 1, 12), images[:5], images[5:10] + 1e-3])
    found = Training(copies_of(images, 2, 1e-3), None, held_out)
    assert found.leaked.tolist() == [False] * 20 + [True] * 10
    assert not Training(images, None, held_out).leaked[:20].any()


def test_clusters_and_sets_of_any_size_are_not_taken_for_copies():
    dense = torch.cat([draw(100, k, 16) * 0.2**k + 10 * k for k in range(4)])
    assert Training(dense).repeated == 0
    for n in (1, 2, 3, 5, 40):
        assert Training(draw(n, 0, 16)).distinct == n
    same = Training(torch.ones(7, 4))
    assert same.distinct == 1 and same.repeated == 7 and same.own.isinf().all()
