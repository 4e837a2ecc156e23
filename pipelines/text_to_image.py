"""pipe("a red flower").images[0]"""

from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from pipelines.base import LatentPipeline
from pipelines.calls.call import Begin, Call, Options
from pipelines.calls.pixels import given_latents
from pipelines.calls.prompts import Prompt


class TextToImagePipeline(LatentPipeline):
    """Text to image with diffusers' argument names and meanings.

    pipe = TextToImagePipeline.from_pretrained("runs/flowers64")
    pipe("a red flower", seed=0).images[0].save("flower.png")
    """

    def __call__(
        self,
        prompt: Prompt = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        *,
        latents: Tensor | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Images for each prompt, `num_images_per_prompt` of each in a row.

        Steps, guidance and its interval default to what the model's folder says, else to
        diffusers' 50, 7.5 and all levels. `latents` (B, C, h, w) replaces the standard normal
        draw; `Options` has what else there is. Raises UserError for what cannot be done.
        """
        shape = self.latent_shape(height, width)

        def begin(call: Call) -> Begin:
            noise = call.draw() if latents is None else given_latents(latents, (call.count, *shape))
            first = None if options.get("timesteps") is None else call.levels[0]
            return Begin(self.model.process.initial(noise.to(self.device), first), call.levels)

        return self.run(prompt, num_inference_steps, shape, begin, options)
