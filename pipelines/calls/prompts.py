"""Prompts as a call has them: checked, told where they are cut, and encoded once each."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ldm.conditions.conditioner import Conditioner
from ldm.core.errors import UserError
from ldm.models.view import view
from pipelines.calls.defaults import whole

Prompt = str | Sequence[str | None] | None
REMEMBERED = 256  # texts that were told to be cut, and are not told again
log = logging.getLogger(__name__)


class Prompts:
    """Texts into contexts (B, L, D); it remembers which it has told to be cut."""

    def __init__(self) -> None:
        self._told: deque[str] = deque(maxlen=REMEMBERED)

    def encode(
        self,
        conditioner: Conditioner,
        prompt: Prompt,
        negative_prompt: Prompt = None,
        images: int = 1,
        guided: bool = True,
        *,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        clip_skip: int | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The prompts' contexts, each `images` times, and the negative ones' where `guided`.

        Either may be given encoded, as (B, L, D). As in diffusers, `clip_skip` is of the prompts
        alone. Raises UserError for what is no prompt.
        """
        images = whole("num_images_per_prompt", images, 1)
        if clip_skip is not None:
            clip_skip = whole("clip_skip", clip_skip, 0)
        conditioner = replace(conditioner, encoder=view(conditioner.encoder))
        if prompt_embeds is None:
            positive = self._encoded(conditioner, _listed("prompt", prompt), clip_skip)
        elif prompt is not None:
            raise UserError("pass prompt or prompt_embeds, not both")
        else:
            positive = _given("prompt_embeds", prompt_embeds, conditioner.context_dim)
        negative = None
        if negative_prompt_embeds is not None:
            if negative_prompt is not None:
                raise UserError("pass negative_prompt or negative_prompt_embeds, not both")
            negative = _given(
                "negative_prompt_embeds", negative_prompt_embeds, conditioner.context_dim
            )
            if negative.shape != positive.shape:
                raise UserError(
                    f"negative_prompt_embeds are {tuple(negative.shape)} and the prompts' "
                    f"{tuple(positive.shape)}: they must be alike"
                )
        else:
            texts = _listed("negative_prompt", negative_prompt)
            if negative_prompt is None or isinstance(negative_prompt, str):
                texts *= len(positive)
            if len(texts) != len(positive):
                raise UserError(f"{len(texts)} negative prompts for {len(positive)} prompts")
            if guided:
                negative = self._encoded(conditioner, texts, None)
                if negative.shape != positive.shape:
                    raise UserError(
                        f"prompt_embeds are {tuple(positive.shape[1:])} each and the negative "
                        f"prompt is {tuple(negative.shape[1:])}: pass negative_prompt_embeds too"
                    )
        positive = positive.repeat_interleave(images, 0)
        return positive, negative.repeat_interleave(
            images, 0
        ) if guided and negative is not None else None

    def _encoded(
        self, conditioner: Conditioner, texts: list[str | None], clip_skip: int | None
    ) -> Tensor:
        """Each distinct text once, so that equal prompts get equal contexts whatever the batch."""
        distinct = list(dict.fromkeys(texts))
        for text in distinct:
            if text and text not in self._told and conditioner.truncated(text):
                self._told.append(text)
                log.warning("only its first %d tokens count: %r", conditioner.length, text)
        with torch.no_grad():
            encoded = conditioner.encode(conditioner.tokens(distinct), clip_skip)
        return encoded[[distinct.index(text) for text in texts]]


def _given(name: str, context: Tensor, width: int) -> Tensor:
    if not isinstance(context, Tensor) or context.ndim != 3 or context.shape[-1] != width:
        has = tuple(context.shape) if isinstance(context, Tensor) else type(context).__name__
        raise UserError(f"{name} are {has}, and this model reads tensors (B, L, {width})")
    if not len(context) or not bool(context.isfinite().all()):
        raise UserError(f"{name} are {'not finite' if len(context) else 'empty'}")
    return context


def _listed(name: str, prompt: Prompt) -> list[str | None]:
    texts = [prompt] if prompt is None or isinstance(prompt, str) else prompt
    if not isinstance(texts, Sequence) or isinstance(texts, bytes):
        raise UserError(f"{name} is a {type(prompt).__name__}: pass a text, or a list of them")
    if strange := [text for text in texts if not (text is None or isinstance(text, str))]:
        raise UserError(f"{name} holds a {type(strange[0]).__name__}: pass texts")
    if not texts:
        raise UserError(f"{name} is an empty list: pass at least one, or None")
    return list(texts)
