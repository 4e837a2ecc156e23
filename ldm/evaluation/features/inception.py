"""The Inception network of FID: torchvision's, with the pooling of the 2015 TensorFlow graph."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.inception import Inception3, InceptionA, InceptionC, InceptionE

# A port of the weights that every published FID was computed with (M. Seitzer, pytorch-fid).
WEIGHTS = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)

# TensorFlow's average leaves the padding out of its mean; the graph's last block takes the maximum.
average = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
maximum = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)


def _pooled(block: Any, pool: Callable[[Tensor], Tensor]) -> Any:
    """A torchvision block whose last branch pools with `pool`."""

    class Block(block):
        def _forward(self, x: Tensor) -> list[Tensor]:
            return [*super()._forward(x)[:-1], self.branch_pool(pool(x))]

    return Block


class FIDInception(Inception3):
    """Images (B, 3, 299, 299) in [-1, 1] → the 2,048 pooled activations."""

    def __init__(self) -> None:
        super().__init__(num_classes=1008, aux_logits=False, init_weights=False)
        a, c = _pooled(InceptionA, average), _pooled(InceptionC, average)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = a(192, 32), a(256, 64), a(288, 64)
        self.Mixed_6b, self.Mixed_6c = c(768, 128), c(768, 160)
        self.Mixed_6d, self.Mixed_6e = c(768, 160), c(768, 192)
        self.Mixed_7b = _pooled(InceptionE, average)(1280)
        self.Mixed_7c = _pooled(InceptionE, maximum)(2048)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        features: list[Tensor] = []
        hook = self.dropout.register_forward_hook(lambda m, given, out: features.append(out))
        try:
            super()._forward(x)
        finally:
            hook.remove()
        return features[0].flatten(1), None


def load_inception(path: str | Path | None = None) -> FIDInception:
    """With the weights in the file `path`, or downloaded once by torch.hub."""
    if path is None:
        weights = torch.hub.load_state_dict_from_url(WEIGHTS, map_location="cpu", check_hash=False)
    else:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    network = FIDInception()
    network.load_state_dict(weights)
    return network
