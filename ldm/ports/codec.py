"""The port between examples and latents: an autoencoder, or whatever stands in its place."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Codec(Protocol):
    """Images (B, 3, H, W) in [-1, 1] to latents (B, C, h, w) and back."""

    @property
    def name(self) -> str:
        """What its latents are called: "latents", or what they are instead."""
        ...

    @property
    def module(self) -> Any:
        """The nn.Module that has its weights and its config."""
        ...

    @property
    def channels(self) -> int:
        """C of its latents."""
        ...

    @property
    def factor(self) -> int:
        """Pixels per latent, along each side."""
        ...

    def shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, h, w) of a square image's latents; raises UserError where it does not divide."""
        ...

    def encode(self, pixels: Tensor, noise: Tensor) -> Tensor:
        """Latents as the network knows them, float32: a draw by the standard normal `noise`.

        Where the noise has more rows than there are images, as many of each image in a row.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], float32, of latents as the network knows them."""
        ...

    def moments(self, pixels: Tensor) -> Tensor:
        """Mean and log-variance (B, 2C, h, w) as it encodes them, unscaled: what a cache stores."""
        ...

    def nominal(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (C,) by which its latents are scaled, float64."""
        ...

    def standardize(self, mean: Tensor, std: Tensor) -> None:
        """Take those (C,) of its latents in, in place: `decode` then has them of mean 0, std 1."""
        ...

    def around(self, module: Any) -> "Codec":
        """The same around another module of its kind."""
        ...

    def in_strips(self, wanted: bool) -> "Codec":
        """The same, but for large images: in strips that take little memory, or whole again.

        Raises UserError where it cannot.
        """
        ...

    def view(self) -> "Codec":
        """The same weights in evaluation mode, with nothing that is set in one seen in another."""
        ...


class CodecKind(NamedTuple):
    """One kind of codec: `autoencoder.kind` in a config, and a class of modules in a folder."""

    modules: tuple[type, ...]  # the classes it is put around
    codec: Callable[[Any], Codec]  # around a module
    fixed: Callable[[], Any] | None = None  # its module, where stage 1 has none to train
