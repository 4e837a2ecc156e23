"""A small feature network of the data set's own, for machines without anybody's weights."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ldm.core.errors import UserError
from ldm.core.files import published, sha256
from ldm.core.sums import read_sealed, write_sealed
from ldm.core.weights import load_weights

WIDTHS = (48, 64, 128, 128)


class Block(nn.Module):
    """A residual block that halves the picture."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, 2, 1)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1)
        self.shortcut = nn.Conv2d(inside, outside, 1)
        self.norms = nn.ModuleList([nn.GroupNorm(8, inside), nn.GroupNorm(8, outside)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.silu(self.norms[0](x)))
        h = self.second(F.silu(self.norms[1](h)))
        return h + self.shortcut(F.avg_pool2d(x, 2, ceil_mode=True))


class FeatureNetwork(nn.Module):
    """Images (B, 3, R, R) in [-1, 1] → features (B, 128): the mean of the last stage's map."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.stem = nn.Conv2d(3, WIDTHS[0], 4, 2, 1)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(WIDTHS)))
        self.norm = nn.GroupNorm(8, WIDTHS[-1])
        self.to(memory_format=torch.channels_last)  # a fifth faster on the CPU

    @property
    def dimension(self) -> int:
        return WIDTHS[-1]

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return F.silu(self.norm(self.blocks(self.stem(x)))).mean((2, 3))


def save_feature_network(network: FeatureNetwork, folder: Path, facts: dict[str, Any]) -> None:
    """Write features.safetensors and features.json: the resolution, and `facts` of its training."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    about = {"resolution": network.resolution, **facts}
    with published(folder, index="features.json") as new:
        save_file(weights, new / "features.safetensors")
        about["weights"] = sha256(new / "features.safetensors")
        write_sealed(new / "features.json", about)


def load_feature_network(folder: Path) -> tuple[FeatureNetwork, str]:
    """The network and a name that says what it was trained on.

    Raises UserError where the folder holds none.
    """
    try:
        about = read_sealed(folder / "features.json")
        network = FeatureNetwork(about["resolution"])
        network.load_state_dict(load_weights(folder / "features.safetensors"))
        if about.get("weights") not in (None, sha256(folder / "features.safetensors")):
            raise ValueError("its weights are not those that were written")
    except UserError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder} holds no trained features ({error}); make them with --train-features"
        ) from error
    return network, f"trained on {about.get('data', 'its own data')}, {about.get('steps')} steps"


def random_feature_network(resolution: int, seed: int = 0) -> FeatureNetwork:
    """Untrained, the same everywhere for one seed; leaves torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FeatureNetwork(resolution)
