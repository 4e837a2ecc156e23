"""Denoisers known in closed form: the oracles of the tests, and what `ldm explain` draws."""

import torch
from torch import Tensor

from ldm.diffusion.plane import Denoiser, Estimate, Level, Network, Prediction, fit, target


def gaussian(mean: Tensor, covariance: Tensor) -> Denoiser:
    """E[x0 | x], E[ε | x] for x0 ~ N(μ, Σ), x of shape (B, D); finite at both ends.

    With C = α²Σ + σ²: x̂0 = μ + αΣ C⁻¹(x - αμ) and ε̂ = σ C⁻¹(x - αμ), in Σ's eigenbasis.
    """
    values, vectors = torch.linalg.eigh(covariance)

    def denoise(x: Tensor, level: Level) -> Estimate:
        alpha, sigma = fit(level.alpha, x), fit(level.sigma, x)
        whitened = (x - alpha * mean) @ vectors / (alpha**2 * values + sigma**2)
        return Estimate(mean + alpha * values * whitened @ vectors.T, sigma * whitened @ vectors.T)

    return denoise


def mixture(points: Tensor, variance: float = 0.0) -> Denoiser:
    """E[x0 | x], E[ε | x] where x0 is one of `points` (N, ...) plus N(0, variance); x is (B, ...).

    Variance 0 is a finite data set, on which this is the minimiser of the denoising loss (EDM,
    Karras et al. 2022, eq. 57); it needs σ > 0.
    """
    data = points.flatten(1)  # (N, D)
    half_norms = data.square().sum(1) / 2

    def denoise(x: Tensor, level: Level) -> Estimate:
        flat = x.flatten(1)  # (B, D)
        alpha, sigma = fit(level.alpha, flat), fit(level.sigma, flat)
        blur = alpha**2 * variance + sigma**2  # of x around its point
        weights = (alpha * (flat @ data.T - alpha * half_norms) / blur).softmax(1)  # (B, N)
        nearest = weights @ data
        off = (flat - alpha * nearest) / blur
        x0, eps = nearest + alpha * variance * off, sigma * off
        return Estimate(x0.reshape(x.shape), eps.reshape(x.shape))

    return denoise


def as_network(denoise: Denoiser, prediction: Prediction) -> Network:
    """The network whose denoiser this is: it undoes c_in and outputs F."""

    def network(scaled: Tensor, level: Level) -> Tensor:
        estimate = denoise(scaled / fit(prediction.c_in(level), scaled), level)
        return target(estimate.x0, estimate.eps, level, prediction)

    return network
