"""The metrics against independent NumPy/SciPy computations, torchmetrics, and their purpose."""

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.distance import cdist

from ldm.evaluation.frechet import Moments, frechet_distance, frechet_distances, moments
from ldm.evaluation.kernels import cmmds, kernel_distances
from ldm.evaluation.measurements import frechet_measurements, measure, subsets
from ldm.evaluation.neighbours import neighbour_shares


def features(n, d, seed, shift=0.0, scale=1.0):
    """Correlated, non-Gaussian."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99)).double() / d**0.5
    x = torch.randn(n, d, generator=generator).double() + 0.3 * torch.rand(
        n, 1, generator=generator
    )
    return scale * (x.exp().clamp(max=5) @ mix) + shift


def every(x):
    return torch.ones(1, len(x), dtype=torch.bool)


def values(x, y, **kwargs):
    return {m.name: m.value for m in measure(x, y, **kwargs)}


def scipy_fd(x, y):
    a, b = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(a @ b).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)


@pytest.mark.parametrize(("n", "m", "d"), [(700, 900, 40), (300, 2500, 128)])
def test_frechet_distance_is_scipys(n, m, d):
    x, y = features(n, d, 0), features(m, d, 1, 0.2, 1.3)
    expected = scipy_fd(x.numpy(), y.numpy())
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-6)
    assert float(frechet_distances(x, moments(y), every(x))) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_with_fewer_samples_than_dimensions():
    x, y = features(30, 64, 0), features(50, 64, 1, 0.1)
    # the nuclear norm of the product of the data matrices: another road to the same trace
    a, b = ((v - v.mean(0)) / (len(v) - 1) ** 0.5 for v in (x.numpy(), y.numpy()))
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = ((x - y).mean(0) if len(x) == len(y) else x.mean(0) - y.mean(0)).square().sum()
    expected = float(expected) + (a**2).sum() + (b**2).sum() - 2 * overlap
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(expected, rel=1e-6)
    assert float(frechet_distances(x, moments(y), every(x))) == pytest.approx(expected, rel=1e-5)


def test_a_set_is_at_no_distance_from_itself():
    x = features(400, 64, 0)
    trace = float(moments(x).covariance.trace())
    assert abs(frechet_distance(moments(x), moments(x))) < 1e-9 * trace
    few = features(40, 64, 0)  # a singular covariance
    assert abs(frechet_distance(moments(few), moments(few))) < 1e-6 * trace
    result = values(x, x)
    assert result["precision"] == result["recall"] == result["coverage"] == 1
    assert result["cmmd"] == pytest.approx(0, abs=1e-9)


def test_moments_stream_in_any_batches_and_far_from_zero():
    x = features(2100, 16, 0) + 1e6
    whole, streamed = moments(x), moments(iter(x.split([1, 99, 1000, 1000])))
    assert isinstance(streamed, Moments) and streamed.n == 2100
    expected = np.cov(x.numpy().T)
    for m in (whole, streamed):
        np.testing.assert_allclose(m.covariance.numpy(), expected, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(m.mean.numpy(), x.numpy().mean(0), rtol=1e-14)


def numpy_kid(x, y):
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, m = len(x), len(y)
    xx, yy = kernel(x, x), kernel(y, y)
    inner = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return inner - 2 * kernel(x, y).mean()


def test_kid_is_numpys_over_several_blocks_and_for_subsets():
    x, y = features(1500, 20, 0), features(1100, 20, 1, 0.05)
    masks = torch.cat([every(x), subsets(len(x), 0.5, 2, 0)])
    result = kernel_distances(x, y, masks)
    for mask, value in zip(masks, result, strict=True):
        assert float(value) == pytest.approx(numpy_kid(x[mask].numpy(), y.numpy()), rel=1e-6)


def test_cmmd_is_the_published_formula():
    x, y = features(200, 20, 0).numpy(), features(300, 20, 1, 0.3).numpy()
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))

    def kernel(a, b):
        return np.exp(-cdist(a, b, "sqeuclidean") / (2 * 10**2))

    expected = 1000 * (kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean())
    result = cmmds(features(200, 20, 0), features(300, 20, 1, 0.3), torch.ones(1, 200).bool())
    assert float(result) == pytest.approx(expected, rel=1e-6)


class Passthrough(torch.nn.Module):
    """ "Images" whose pixels are their features."""

    num_features = 32

    def forward(self, images):
        return images.flatten(1).double()


def test_frechet_and_kernel_distance_are_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (300, 2, 4, 4), generator=generator, dtype=torch.uint8)
    y = torch.randint(0, 200, (300, 2, 4, 4), generator=generator, dtype=torch.uint8)
    fid = FrechetInceptionDistance(Passthrough(), input_img_size=(2, 4, 4)).set_dtype(torch.float64)
    kid = KernelInceptionDistance(Passthrough(), subsets=1, subset_size=300)
    for metric in (fid, kid):
        metric.update(x, real=False)
        metric.update(y, real=True)
    a, b = x.flatten(1).double(), y.flatten(1).double()
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(float(fid.compute()), rel=1e-6)
    expected = float(kid.compute()[0])
    assert float(kernel_distances(a, b, every(a))) == pytest.approx(expected, rel=1e-5)


def test_neighbour_shares_are_numpys_for_all_and_for_halves():
    x, y = features(120, 6, 0), features(150, 6, 1, 0.15)
    masks = torch.cat([every(x), subsets(len(x), 0.5, 4, 0)])
    result = neighbour_shares(x, y, masks)

    def radii(v, k):
        return np.sort(cdist(v, v), axis=1)[:, k]

    for row, mask in enumerate(masks):
        a, b = x[mask].numpy(), y.numpy()
        apart = cdist(a, b)
        expected = {
            "precision": (apart <= radii(b, 3)).any(1).mean(),
            "recall": (apart <= radii(a, 3)[:, None]).any(0).mean(),
            "density": (apart <= radii(b, 5)).sum() / (5 * len(a)),
            "coverage": (apart.min(0) <= radii(b, 5)).mean(),
        }
        got = {name: float(value[row]) for name, value in result.items()}
        assert got == pytest.approx(expected, abs=1e-12)


def ring(modes, n, seed):
    """Points around some of eight places on a circle."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.tensor(modes)[torch.randint(0, len(modes), (n,), generator=generator)] * np.pi / 4
    centre = torch.stack([angle.cos(), angle.sin()], 1)
    return centre + 0.02 * torch.randn(n, 2, generator=generator)


def test_recall_and_coverage_see_dropped_modes_that_frechet_distance_does_not():
    real = ring(range(8), 800, 0)
    whole, half = values(ring(range(8), 800, 1), real), values(ring([0, 2, 4, 6], 800, 2), real)
    assert half["fd"] < 0.01 and whole["fd"] < 0.01  # the same mean and covariance
    assert whole["recall"] > 0.9 and whole["coverage"] > 0.9
    assert half["recall"] < 0.6 and half["coverage"] < 0.6
    assert half["precision"] > 0.9


def test_a_reference_in_the_order_of_its_classes_is_cut_fairly(monkeypatch):
    monkeypatch.setattr("ldm.evaluation.measurements.MOST", 400)
    reference = torch.cat([ring([0], 600, 1), ring([4], 600, 2)])  # one class after the other
    found = values(ring([4], 200, 3), reference, resamples=4)
    assert found["precision"] > 0.9 and 0.3 < found["recall"] < 0.7


def test_precision_sees_samples_that_are_not_real():
    real, noisy = ring(range(8), 800, 0), ring(range(8), 800, 1)
    noisy[::2] *= 0.5
    result = values(noisy, real)
    assert result["precision"] < 0.6 and result["density"] < 0.6 and result["recall"] > 0.9


def test_fd_infinity_removes_the_bias_and_is_withheld_where_it_cannot():
    d = 32
    reference = moments(torch.randn(200_000, d, generator=torch.Generator().manual_seed(5)))

    def at(n, seed):
        x = 1.1 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
        found = frechet_measurements(x, reference, subsets(n, 0.8, 20, 0))
        return {m.name: m.value for m in found}

    truth = d * 0.1**2  # of N(0, 1.21 I) from N(0, I)
    runs = [at(400, seed) for seed in range(12)]
    plain = np.mean([r["fd"] for r in runs])
    limit = np.mean([r["fd_infinity"] for r in runs])
    assert plain - truth > 0.5 and abs(limit - truth) < 0.06
    assert "fd_infinity" not in at(24, 0)


def test_intervals_do_not_depend_on_when_they_are_computed():
    x, y = features(100, 8, 0), features(120, 8, 1)
    assert measure(x, y, "some", seed=3) == measure(x, y, "some", seed=3)
    assert measure(x, y, "some", seed=3) != measure(x, y, "some", seed=4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_intervals_cover_the_figure_that_they_are_of():
    """200 sets of samples: the 95 % interval holds each metric's expectation in 90 to 99 %."""
    reference = features(800, 24, 1, 0.2)

    def draw(seed, resamples):
        found = measure(features(300, 24, seed), reference, resamples=resamples)
        return {m.name: m for m in found}

    draws = [draw(1000 + s, 100) for s in range(200)]
    more = [draw(5000 + s, 2) for s in range(400)]
    for name in ("fd", "kid", "cmmd", "precision", "recall", "density", "coverage"):
        truth = np.mean([d[name].value for d in more])
        low, high = np.array([d[name].interval for d in draws]).T
        covered = np.mean((low < truth) & (truth < high))
        assert 0.90 <= covered <= 0.99, (name, covered)


@pytest.mark.slow
def test_interval_of_fd_infinity_covers_the_population():
    reference = features(200_000, 24, 1, 0.2)
    truth = frechet_distance(moments(features(1_000_000, 24, 7)), moments(reference))
    masks, covered = subsets(500, 0.8, 100, 0), []
    for s in range(200):
        x = features(500, 24, 1000 + s)
        found = {m.name: m for m in frechet_measurements(x, moments(reference), masks)}
        low, high = found["fd_infinity"].interval
        covered.append(low < truth < high)
    assert 0.90 <= np.mean(covered) <= 0.99, np.mean(covered)
