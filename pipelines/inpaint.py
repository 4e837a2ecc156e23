"""pipe("a red flower", image=photo, mask_image=mask).images[0]"""

from functools import partial
from typing import Any

import torch
from typing_extensions import Unpack

from ldm.diffusion.denoise import inpaint
from ldm.diffusion.grids import renoise
from pipelines.base import LatentPipeline
from pipelines.calls.call import Begin, Call, Options
from pipelines.calls.pictures import Pictures, painted, refuse_strength
from pipelines.calls.prompts import Prompt


class InpaintPipeline(LatentPipeline):
    """Part of an image painted anew, with an ordinary text-to-image model.

    Where the mask is black the latents are the image's own at every noise level. Argument names and
    meanings are diffusers'.
    """

    def __call__(
        self,
        prompt: Prompt = None,
        image: Any = None,
        mask_image: Any = None,
        height: int | None = None,
        width: int | None = None,
        strength: float = 1.0,
        num_inference_steps: int | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Images for each prompt, repainted where `mask_image` is white.

        `image` and `mask_image` are given as in ImageToImagePipeline, one for all prompts or one
        for each, resized to `height` × `width`, the model's own size unless given. Where a mask is
        transparent it is black. `strength` below 1 lets the old content shine through. The rest is
        as in TextToImagePipeline. Raises UserError for what cannot be done.
        """
        shape = self.latent_shape(height, width)
        codec = self.model.codec
        pictures = Pictures.of(image, codec, shape[1:])
        masks = painted(mask_image, codec, shape[1:])

        def begin(call: Call) -> Begin:
            refuse_strength(strength, call.steps)
            known, noise = pictures.latents(call), call.draw()
            mask = call.rows("masks", masks)
            call.draw.of(max(pictures.count, len(masks)))  # diffusers draws for the masked picture
            x, levels = self.model.process.initial(noise), call.levels
            if strength < 1:
                x, levels = renoise(known, noise, levels, strength)
            start = levels[0] if strength == 1 else None
            wrap = partial(inpaint, known=known, noise=noise, mask=mask, start=start)
            return Begin(x, levels, wrap, lambda x: torch.lerp(known, x, mask))  # may end in noise

        return self.run(prompt, num_inference_steps, shape, begin, options)
