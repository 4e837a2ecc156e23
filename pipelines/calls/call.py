"""One call of a pipeline, whatever it starts from: what it may be told, and what callbacks see."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from typing_extensions import TypedDict

from ldm.core.errors import UserError
from ldm.diffusion.plane import Denoiser, Level
from pipelines.calls.defaults import Defaults, number
from pipelines.calls.guided import Told
from pipelines.calls.prompts import Prompt
from pipelines.calls.seeds import Draws, Generators, Seeds

Callback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]


class Options(TypedDict, total=False):
    """What the call of every pipeline takes: diffusers' names and meanings, then this project's."""

    guidance_scale: float | None  # 1 or less turns guidance off; None is as the folder says
    negative_prompt: Prompt
    num_images_per_prompt: int | None
    eta: float  # DDIM's amount of noise, from 0 to 1; other samplers take no notice
    generator: Generators
    timesteps: Sequence[float] | None  # labels to visit, noisiest first, in place of the grid
    prompt_embeds: Tensor | None  # (B, L, D), in place of a prompt
    negative_prompt_embeds: Tensor | None
    output_type: str | None  # pil, np, pt or latent
    return_dict: bool  # False for (images, None)
    guidance_rescale: float  # from 0 to 1
    clip_skip: int | None  # how many of the text encoder's last layers are left out
    callback_on_step_end: Callback | None
    callback_on_step_end_tensor_inputs: Sequence[str]  # of CHANGEABLE
    pag_scale: float  # of perturbed-attention guidance
    guidance_interval: tuple[float, float] | None  # of σ/α, in which guidance acts
    seed: Seeds  # s gives the i-th image of the call the seed s + i
    sampler: str | None  # a name in SAMPLERS
    brownian: bool  # noise of two levels, not of a step: little changes with their number


CHANGEABLE = ("latents", "prompt_embeds", "negative_prompt_embeds")  # by a callback


class Begin(NamedTuple):
    """Where the sampling of a call begins, and what becomes of its end."""

    x: Tensor
    levels: list[Level]
    wrap: Callable[[Denoiser], Denoiser] | None = None
    finish: Callable[[Tensor], Tensor] | None = None


@dataclass(eq=False)
class Call:
    """A call that runs."""

    told: Told
    draw: Draws
    levels: list[Level]  # of the whole path
    steps: int
    prompts: int  # so many pictures may be given
    interrupt: bool = False

    @property
    def count(self) -> int:
        """Images of the call."""
        return self.draw.count

    def rows(self, what: str, given: Tensor) -> Tensor:
        """One of `given` for each image, where there is one for all or one for each prompt."""
        if len(given) not in (1, self.prompts):
            raise UserError(
                f"{len(given)} {what} for {self.prompts} prompts: pass one, or one for each"
            )
        return given.to(self.draw.device).repeat_interleave(self.count // len(given), 0)

    def changeable(self, x: Tensor) -> dict[str, Tensor | None]:
        """The tensors that a callback may ask for; prompts together with the negative ones."""
        told = self.told
        both = told.both if told.scale > 1 and told.both is not None else told.positive
        return dict(zip(CHANGEABLE, (x, both, told.negative), strict=True))

    def change(self, x: Tensor, returned: Any) -> None:
        """Take over what a callback returned; x in place, as the sampler goes on from it."""
        if returned is None:
            return
        if not isinstance(returned, dict):
            raise UserError(
                f"callback_on_step_end returned a {type(returned).__name__}: return a dict, such "
                "as the one it was given"
            )
        had = self.changeable(x)
        for name, value in returned.items():
            if name not in CHANGEABLE or value is had[name]:
                continue
            like = x if name == "latents" else self.told.positive
            rows, shape = len(like), like.shape[1:]
            both = name == "prompt_embeds" and self.told.negative is not None
            if (
                not isinstance(value, Tensor)
                or value.shape[1:] != shape
                or (len(value) != rows and not (both and len(value) == 2 * rows))
            ):
                found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise UserError(
                    f"callback_on_step_end returned {name} {found} in place of {tuple(like.shape)}"
                )
            value = value.to(like)
            if name == "latents":
                x.copy_(value)
            elif name == "negative_prompt_embeds":
                self.told.tell(self.told.positive, value)
            elif len(value) == rows:
                self.told.tell(value, self.told.negative)
            else:
                negative, positive = value.chunk(2)
                self.told.tell(positive, negative)


_CURRENT: ContextVar[Call | None] = ContextVar("the call that runs in this thread", default=None)


class Watched:
    """What diffusers' callbacks ask and set of their pipeline: each call's own.

    In a callback these are of the call that it watches, whatever other threads call; set from
    elsewhere, `_interrupt` stops every call that runs.
    """

    defaults: Defaults

    def __init__(self) -> None:
        self._running: set[Call] = set()

    @contextmanager
    def _watched(self, call: Call) -> Iterator[None]:
        self._running.add(call)
        token = _CURRENT.set(call)
        try:
            yield
        finally:
            _CURRENT.reset(token)
            self._running.discard(call)

    def _mine(self) -> Call | None:
        call = _CURRENT.get()
        return call if call in self._running else None

    @property
    def interrupt(self) -> bool:
        """Whether the call was told to stop, by `_interrupt = True` in a callback."""
        call = self._mine()
        return call is not None and call.interrupt

    @property
    def _interrupt(self) -> bool:
        return self.interrupt

    @_interrupt.setter
    def _interrupt(self, stop: bool) -> None:
        call = self._mine()
        for each in list(self._running) if call is None else [call]:
            each.interrupt = bool(stop)

    @property
    def guidance_scale(self) -> float:
        """Of the call; the model's own where none runs."""
        call = self._mine()
        return self.defaults.guidance_scale if call is None else call.told.scale

    @property
    def _guidance_scale(self) -> float:
        return self.guidance_scale

    @_guidance_scale.setter
    def _guidance_scale(self, scale: float) -> None:
        if (call := self._mine()) is None:
            raise UserError("guidance_scale is an argument of the call; only a callback changes it")
        call.told.scale = max(1.0, number("guidance_scale", scale))  # 1 or less: none

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the call is guided at this step."""
        return self.guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Steps of the call; the model's own number where none runs."""
        call = self._mine()
        return self.defaults.num_inference_steps if call is None else call.steps
