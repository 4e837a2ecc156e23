"""What is trained, and the whole loss: its parts, its balance, and how a batch may be split."""

import copy

import pytest
import torch
from accelerate import Accelerator

from autoencoder.health import equivariance_verdict, posterior_of
from autoencoder.loss.discriminator import Adversary
from autoencoder.objective import Objective
from autoencoder.reconstructor import Reconstructor
from ldm.config import AutoencoderConfig, AutoencoderLossConfig
from ldm.core.errors import UserError


def parts_of(vae, **loss):
    trainable = loss.pop("trainable", "all")
    config = AutoencoderConfig(loss=AutoencoderLossConfig(**loss), trainable=trainable)
    torch.manual_seed(0)
    adversary = Adversary.of(config.loss, 32, torch.device("cpu"))
    return Reconstructor(vae, config), Objective(config, vae, adversary)


def noise_for(flowers) -> torch.Tensor:
    return torch.randn(len(flowers), 4, 8, 8, generator=torch.manual_seed(0))


def test_the_loss_is_the_weighted_sum_of_its_parts(vae, flowers):
    model, objective = parts_of(vae, kl=0.01, perceptual=0.3, adversarial=0.7, equivariance=0.2)
    objective.adversary.weight.fill_(2.0)
    _, parts = objective(model(flowers, noise_for(flowers)), flowers, step=0)
    expected = (
        parts["reconstruction"]
        + 0.01 * parts["kl"]
        + 0.3 * parts["perceptual"]
        + 0.7 * 2.0 * parts["generator"]
        + 0.2 * parts["equivariance"]
    )
    torch.testing.assert_close(parts["loss"], expected)
    assert all(float(parts[k]) != 0 for k in parts)


def test_the_balance_is_the_ratio_of_gradients_at_the_last_layer(vae, flowers):
    model, objective = parts_of(vae, adversarial=1.0)
    objective(model(flowers, noise_for(flowers)), flowers, step=0)
    objective.balance(Accelerator(cpu=True))

    output = model(flowers, noise_for(flowers))
    layer = vae.decoder.conv_out.weight
    likeness = (output.image - flowers).abs().mean()
    (of_likeness,) = torch.autograd.grad(likeness, layer, retain_graph=True)
    (of_judge,) = torch.autograd.grad(objective.adversary.judge(output.image), layer)
    expected = of_likeness.norm() / (of_judge.norm() + 1e-4)
    torch.testing.assert_close(objective.adversary.weight, expected, rtol=1e-4, atol=0)


def test_two_micro_batches_give_the_gradient_and_the_balance_of_one(vae, flowers):
    gradients, weights = [], []
    for split in (1, 2):
        model, objective = parts_of(vae, kl=0.01, perceptual=0.3, adversarial=0.7, equivariance=0.2)
        objective.adversary.weight.fill_(0.5)
        vae.zero_grad()
        parts = zip(flowers.chunk(split), noise_for(flowers).chunk(split), strict=True)
        for x, noise in parts:
            loss, _ = objective(model(x, noise), x, step=0)
            (loss / split).backward()
        objective.balance(Accelerator(cpu=True))
        gradients.append([p.grad.clone() for p in vae.parameters()])
        weights.append(objective.adversary.weight)
    for whole, halves in zip(*gradients, strict=True):
        torch.testing.assert_close(halves, whole, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=0)


def test_scale_equivariance_compares_half_size_decodings_with_half_size_images(vae, flowers):
    model, objective = parts_of(vae, kl=0.01, equivariance=1.0)
    noise = noise_for(flowers)
    _, parts = objective(model(flowers, noise), flowers, step=0)
    posterior = vae.encode(flowers).latent_dist
    latents = posterior.mean + posterior.std * noise
    squares = latents.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    target = flowers.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    expected = (vae.decode(squares).sample - target).abs().mean()
    torch.testing.assert_close(parts["equivariance"], expected)


@pytest.mark.slow
def test_scale_equivariance_is_learnt_where_it_is_asked_for(vae, flowers):
    shares = []
    for weight in (0.0, 4.0):
        torch.manual_seed(0)
        learner = copy.deepcopy(vae)
        model, objective = parts_of(learner, kl=1e-6, equivariance=weight)
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(90):
            optimizer.zero_grad()
            loss, _ = objective(model(flowers, noise_for(flowers)), flowers, step=0)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            share = equivariance_verdict(learner, flowers, posterior_of(learner, flowers))
        shares.append(share.value)
    assert shares[1] > shares[0] + 0.2, shares


@pytest.mark.slow
def test_a_decoder_that_saw_wrong_latents_decodes_them_better(vae, flowers):
    draw = torch.Generator().manual_seed(1)
    found = []
    for strength in (0.0, 1.0):
        learner = copy.deepcopy(vae)
        model, objective = parts_of(learner, kl=1e-6, trainable="decoder")
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 2e-3)
        for _ in range(60):
            optimizer.zero_grad()
            noise = noise_for(flowers)
            error = strength * torch.randn(noise.shape, generator=draw)
            objective(model(flowers, noise, error), flowers, step=0)[0].backward()
            optimizer.step()
        with torch.no_grad():
            output = model(flowers, noise_for(flowers), noise_for(flowers).flip(0))
        found.append(float((output.image - flowers).abs().mean()))
    assert found[1] < 0.95 * found[0], found


def test_scale_equivariance_takes_latents_of_an_odd_size(vae, flowers):
    model, objective = parts_of(vae, equivariance=1.0)
    odd = flowers[:, :, :28, :28]
    _, parts = objective(model(odd, torch.zeros(len(odd), 4, 7, 7)), odd, step=0)
    assert torch.isfinite(parts["equivariance"])


def test_every_weight_of_the_autoencoder_gets_a_gradient(vae, flowers):
    model, objective = parts_of(vae, kl=0.01)
    objective(model(flowers, noise_for(flowers)), flowers, step=0)[0].backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


def test_training_the_decoder_leaves_the_encoder_without_gradients(vae, flowers):
    model, objective = parts_of(vae, kl=0.01, trainable="decoder")
    objective(model(flowers, noise_for(flowers)), flowers, step=0)[0].backward()
    trained = {n.split(".")[0] for n, p in vae.named_parameters() if p.grad is not None}
    assert trained == {"decoder", "post_quant_conv"}
    assert {n.split(".")[0] for n, p in vae.named_parameters() if p.requires_grad} == trained


def test_without_a_kl_it_is_a_plain_autoencoder(vae, flowers):
    model, _ = parts_of(vae, kl=0.0)
    one, other = model(flowers, noise_for(flowers)), model(flowers, 5 * noise_for(flowers))
    assert torch.equal(one.image, other.image)
    posterior = vae.encode(flowers).latent_dist
    torch.testing.assert_close(posterior.mean, one.mean)
    assert posterior.std.max().item() < 1e-6  # so the latent cache samples the mean


def test_samples_have_the_posteriors_mean_and_spread(vae, flowers):
    model, _ = parts_of(vae, kl=1e-6)
    seen = []
    vae.decode = lambda z: seen.append(z) or type("Decoded", (), {"sample": z})
    noise = noise_for(flowers)
    output = model(flowers, noise)
    posterior = vae.encode(flowers).latent_dist
    torch.testing.assert_close(seen[0], posterior.mean + posterior.std * noise)
    torch.testing.assert_close(output.logvar, posterior.logvar)


def test_what_to_train_must_be_known(vae):
    with pytest.raises(UserError, match="trainable='encoder' is not known; use all or decoder"):
        parts_of(vae, trainable="encoder")
