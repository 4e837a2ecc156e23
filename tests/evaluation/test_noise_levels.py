import torch

from ldm.core.share import Share
from ldm.evaluation.noise_levels import level_times, loss_by_level, plot

TIMES = level_times(20)


def gaussian_loss(std: float):
    """The x0-space loss of the exact denoiser of N(0, std²), on the path α = cos, σ = sin."""

    def loss(x0, eps, t, indices):
        angle = (t * torch.pi / 2).view(-1, 1, 1, 1)
        alpha, sigma = angle.cos(), angle.sin()
        x = alpha * x0 + sigma * eps
        x0_hat = alpha * std**2 / (alpha**2 * std**2 + sigma**2) * x
        return (x0_hat - x0).square().flatten(1).mean(1)

    return loss


def images(n=48, std=0.5):
    return std * torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_curve_of_the_exact_gaussian_denoiser_is_its_closed_form():
    result = loss_by_level(gaussian_loss(0.5), images(), TIMES, seed=0)
    angle = TIMES * torch.pi / 2
    expected = 0.25 * angle.sin() ** 2 / (0.25 * angle.cos() ** 2 + angle.sin() ** 2)
    # 20 levels at 99.9 %: an honest interval misses one of them in 50 seeds
    low, high = result.interval(0.999).T
    assert ((low < expected) & (expected < high)).all()
    torch.testing.assert_close(result.mean, expected, rtol=0.03, atol=0)


def test_batch_size_and_number_of_processes_change_nothing():
    x0 = images(10)
    whole = loss_by_level(gaussian_loss(0.5), x0, TIMES, seed=0, batch_size=200)
    for batch_size in (1, 7, 64):
        other = loss_by_level(gaussian_loss(0.5), x0, TIMES, seed=0, batch_size=batch_size)
        torch.testing.assert_close(other.losses, whole.losses, rtol=1e-6, atol=0)
    shards = [
        loss_by_level(gaussian_loss(0.5), x0, TIMES, 0, batch_size=7, share=Share(r, 3)).losses
        for r in range(3)
    ]
    one = loss_by_level(gaussian_loss(0.5), x0, TIMES, 0, batch_size=7).losses
    assert torch.equal(sum(shards), one)


def test_the_seed_changes_the_noise_and_more_examples_leave_the_first_ones_alone():
    x0 = images(10)
    first = loss_by_level(gaussian_loss(0.5), x0, TIMES, seed=0, batch_size=5).losses
    assert not torch.equal(loss_by_level(gaussian_loss(0.5), x0, TIMES, 1).losses, first)
    fewer = loss_by_level(gaussian_loss(0.5), x0[:5], TIMES, seed=0, batch_size=5).losses
    torch.testing.assert_close(fewer, first[:, :5], rtol=1e-6, atol=0)


def test_interval_is_students():
    result = loss_by_level(gaussian_loss(0.5), images(12), TIMES[:1], seed=0)
    values = result.losses[0].numpy()
    half = 2.2009851600916 * values.std(ddof=1) / 12**0.5  # t quantile 0.975 at 11 degrees
    low, high = result.interval()[0].tolist()
    assert abs(high - low - 2 * half) < 1e-12 and abs(high + low - 2 * values.mean()) < 1e-12


def test_levels_are_the_middles_of_their_strata_through_the_quantile_function():
    torch.testing.assert_close(level_times(4), torch.tensor([1, 3, 5, 7]) / 8, check_dtype=False)
    on_table = level_times(4, lambda u: (u * 10).floor() / 10)
    torch.testing.assert_close(on_table * 10, torch.tensor([1.0, 3, 6, 8]).double())


def test_space_changes_by_a_gain_for_each_level():
    result = loss_by_level(gaussian_loss(0.5), images(4), TIMES, seed=0)
    snr = 1 / (TIMES * torch.pi / 2).tan() ** 2
    eps = result.scaled(snr, "eps")
    assert eps.space == "eps"
    torch.testing.assert_close(eps.mean, result.mean * snr)
    torch.testing.assert_close(eps.standard_error, result.standard_error * snr)


def test_plot_draws_a_line_and_a_band_for_each_curve(tmp_path):
    result = loss_by_level(gaussian_loss(0.5), images(4), TIMES, seed=0)
    figure = plot({"train": result, "held out": result.scaled(TIMES, "output")}, tmp_path / "p.png")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["train", "held out"]
    assert len(axes.collections) == 2
    assert (tmp_path / "p.png").stat().st_size > 10_000
