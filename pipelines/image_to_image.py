"""pipe("a red flower", image=photo, strength=0.6).images[0]"""

from typing import Any

from typing_extensions import Unpack

from ldm.diffusion.grids import renoise
from pipelines.base import LatentPipeline
from pipelines.calls.call import Begin, Call, Options
from pipelines.calls.pictures import Pictures, refuse_strength
from pipelines.calls.prompts import Prompt


class ImageToImagePipeline(LatentPipeline):
    """An image made over to suit a prompt: noised part of the way, and denoised from there.

    SDEdit (Meng et al. 2022), with diffusers' argument names and meanings.
    """

    def __call__(
        self,
        prompt: Prompt = None,
        image: Any = None,
        strength: float = 0.8,
        num_inference_steps: int | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Images for each prompt, starting from `image`: one for all prompts, or one for each.

        `image` is a PIL image, a path, an array or a tensor, or a list of them (Pictures says how
        they are read). `strength` in (0, 1] is the share of the steps that are run: 1 keeps little
        of the image. The rest is as in TextToImagePipeline. Raises UserError for what cannot be
        done.
        """
        pictures = Pictures.of(image, self.model.codec, multiple=self.multiple)

        def begin(call: Call) -> Begin:
            refuse_strength(strength, call.steps)
            known, noise = pictures.latents(call), call.draw()
            return Begin(*renoise(known, noise, call.levels, strength))

        return self.run(prompt, num_inference_steps, pictures.shape, begin, options)
