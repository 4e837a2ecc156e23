"""The terms of the autoencoder's loss, each a function of tensors.

Images are (B, 3, H, W) in [−1, 1]; reconstruction terms come per example, (B,). The whole is

    R(x̂, x) + kl · KL + equivariance · R(half-size x̂, half-size x) + λ · adversarial · G,
    R = reconstruction + perceptual · P

where λ balances gradients (`adaptive_weight`), and the discriminator has a loss of its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.core.errors import UserError


def reconstruction_loss(output: Tensor, target: Tensor, kind: str) -> Tensor:
    """L1 or L2, the mean over elements, (B,)."""
    if kind not in ("l1", "l2"):
        raise UserError(f"autoencoder.loss.reconstruction={kind!r} is not known; use l1 or l2")
    difference = output - target
    return (difference.abs() if kind == "l1" else difference.square()).flatten(1).mean(1)


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) ‖ N(0, 1)) in nats per latent element, (B,).

    The second term of the ELBO in closed form (Kingma & Welling 2013, appendix B).
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).mean(1)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """½ E[max(0, 1 − D(real))] + ½ E[max(0, 1 + D(fake))]: 1 where D says 0 to everything."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator(fake: Tensor) -> Tensor:
    """−E[D(fake)]."""
    return -fake.mean()


def non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """½ of the cross-entropy of telling real from fake: log 2 where D says 0 to everything."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def non_saturating_generator(fake: Tensor) -> Tensor:
    """E[−log σ(D(fake))] (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).mean()


ADVERSARIAL = {  # kind: (loss of the discriminator, loss of the generator), of logits
    "hinge": (hinge_discriminator, hinge_generator),
    "non_saturating": (non_saturating_discriminator, non_saturating_generator),
}


def r1_penalty(real: Tensor, real_logits: Tensor) -> Tensor:
    """½ E‖∂D(x)/∂x‖² at real images, which must require grad (Mescheder et al. 2018, eq. 9)."""
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return 0.5 * gradient.square().flatten(1).sum(1).mean()


def lecam_penalty(real: Tensor, fake: Tensor, real_mean: Tensor, fake_mean: Tensor) -> Tensor:
    """Keeps logits near the running mean of the other side (Tseng et al. 2021, eq. 4)."""
    return (real - fake_mean).relu().square().mean() + (real_mean - fake).relu().square().mean()


def adaptive_weight(reconstruction_gradient: Tensor, generator_gradient: Tensor) -> Tensor:
    """λ = ‖∇L_rec‖ / (‖∇L_G‖ + δ) at the decoder's last layer (Esser et al. 2021, eq. 7)."""
    ratio = reconstruction_gradient.norm() / (generator_gradient.norm() + 1e-4)
    return ratio.clamp(max=1e4)
