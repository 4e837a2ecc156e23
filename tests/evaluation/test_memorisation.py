import numpy as np
import torch
from scipy.spatial.distance import cdist

from ldm.evaluation.memorisation import nearest, own_nearest


def draw(n, seed):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)).double()


def test_copies_are_found_and_ranked_first():
    training, samples = draw(300, 0), draw(50, 1)
    samples[7] = training[123] + 1e-3
    samples[9] = training[4]
    found = nearest(samples, training)
    assert found.closest(2) == [9, 7]
    assert found.neighbour[7] == 123 and found.neighbour[9] == 4
    assert found.copied[7] and found.copied[9] and found.distance[9] < 1e-6


def test_distances_and_neighbours_are_scipys_over_several_blocks():
    training, samples = draw(2500, 0), draw(40, 1)
    apart = cdist(samples, training)
    found = nearest(samples, training)
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
    assert nearest(samples, training).ratio[3] > 0.1
    found = nearest(samples, training, mirrored)
    assert found.neighbour[3] == 77 and found.ratio[3] < 1e-6


def test_images_of_the_same_distribution_are_not_taken_for_copies():
    training, fresh = draw(1000, 0), draw(500, 1)
    share = nearest(fresh, training).copied.double().mean()
    assert 0.3 < share < 0.6  # a new image is as near as an old one about half of the time
