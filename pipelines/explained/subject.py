"""What `ldm explain` is about: drawn flowers with their exact denoiser, or a trained pipeline."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from html import escape
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldm.core import keyed
from ldm.core.errors import UserError
from ldm.core.inference import evaluating
from ldm.data.drawn import captions, draw, truth
from ldm.data.pixels import as_bytes
from ldm.diffusion.exact import as_network, mixture
from ldm.diffusion.guidance import cfg
from ldm.diffusion.plane import Network, Noise, V
from ldm.schedulers.spec import Spec

FLOWERS, SIDE = 500, 64  # of the built-in data
_IN_LATENTS = (
    "It works on latents: small arrays that a decoder turns into pictures. Noise is added to those "
    "and taken from them, and every picture on this page is a decoded latent."
)
_IN_PIXELS = "It works on the pixels themselves: noise is added to those and taken from them."


class Subject(NamedTuple):
    """What the page is about: a model to sample from, and a picture to add noise to."""

    name: str
    about: str  # a paragraph
    spec: Spec
    x0: Tensor  # (1, C, h, w)
    network: Callable[[float, int], Network]  # (guidance scale, images) -> guided network
    pictures: Callable[[Tensor], list[Image.Image]]  # of x (B, C, h, w)
    latents: Callable[[Tensor], list[Image.Image]] | None  # x itself, where pictures decode it
    ready: Callable[[], AbstractContextManager[None]]


def _rgb(x: Tensor) -> list[Image.Image]:
    """Images of (B, 3, H, W) in [-1, 1]."""
    array = as_bytes(x.float()).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(a) for a in array]


def drawn_subject(prompt: str) -> Subject:
    """The exact model of the built-in flowers; its classes are their captions."""
    flowers = [truth(i) for i in range(FLOWERS)]
    meant = torch.tensor([prompt in captions(flower) for flower in flowers])
    if not meant.any():
        raise UserError(
            f"none of the {FLOWERS} drawn flowers has the caption {prompt!r}; "
            "ask for 'a red flower', or pass a trained model"
        )
    pixels = torch.stack(
        [torch.from_numpy(np.array(draw(f, SIDE))).permute(2, 0, 1).double() for f in flowers]
    )
    data = pixels / 127.5 - 1
    cond, uncond = (as_network(mixture(points), V) for points in (data[meant], data))
    return Subject(
        name=prompt,
        about=f"The data here are {FLOWERS} flowers that this project draws, {int(meant.sum())} of "
        f"them with the caption “{escape(prompt)}”. For a finite set the best possible "
        "denoiser is known in closed form, so nothing on this page was trained: it is "
        "what training aims at. Being perfect it can only return flowers that it was given. "
        "A network cannot be that exact, and what it makes instead is new.",
        spec=Spec(schedule_name="linear", prediction_name="v"),
        x0=data[meant][:1],
        network=lambda scale, images: cfg(cond, uncond, scale),
        pictures=_rgb,
        latents=None,
        ready=torch.no_grad,
    )


def trained_subject(checkpoint: str, prompt: str) -> Subject:
    """A latent diffusion model, by way of its pipeline."""
    from pipelines.calls.defaults import Guidance
    from pipelines.text_to_image import TextToImagePipeline

    pipe = TextToImagePipeline.from_pretrained(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    pixels = pipe.model.codec.name == "pixels"

    def network(scale: float, images: int) -> Network:
        positive, negative = pipe.context(prompt, None, images, guided=scale != 1)
        # at all levels, whatever the model's interval: an early step is shown under each scale
        return pipe.network(positive, negative, Guidance(scale))

    def channels(x: Tensor) -> list[Image.Image]:
        shown = x[:, :3] if x.shape[1] >= 3 else x[:, :1].expand(-1, 3, -1, -1)
        return _rgb(shown / 3)

    return Subject(
        name=prompt,
        about=f"The model is <code>{escape(checkpoint)}</code>, and the prompt “{escape(prompt)}”. "
        + (_IN_PIXELS if pixels else _IN_LATENTS),
        spec=pipe.model.process,
        x0=pipe(prompt, seed=0, output_type="latent").images,
        network=network,
        pictures=lambda x: pipe.images(x.float(), "pil").images,
        latents=None if pixels else channels,
        ready=lambda: evaluating(*pipe.model.modules.values()),
    )


def keyed_normal(subject: Subject, images: int, purpose: str) -> Noise:
    """Keyed noise for a batch: the same page on every machine."""
    x0 = subject.x0

    def noise(step: int) -> Tensor:
        z = keyed.example_normal(x0.shape[1:], 0, step, range(images), purpose)
        return z.to(x0)

    return noise
