"""pipe("a red flower").images[0]"""

from collections.abc import Sequence
from inspect import signature
from typing import Any

from torch import Generator, Tensor

from ldm.diffusion.samplers import SAMPLERS
from ldm.errors import UserError
from pipelines.base import (
    Callback,
    Guidance,
    Images,
    LatentPipeline,
    Prompt,
    refuse_output_type,
)
from pipelines.inference import evaluating
from pipelines.seeds import draws, generators


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
        guidance_scale: float | None = None,
        negative_prompt: Prompt = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generator | Sequence[Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, float("inf")),
        callback_on_step_end: Callback | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        sampler: str | None = None,
    ) -> Images:
        """Images for each prompt, `num_images_per_prompt` of each in a row.

        Steps and guidance default to what the model's folder says, else to diffusers' 50 and 7.5.
        `seed` s gives the i-th image of the call the seed s + i, so an image does not depend on the
        batch it was made in. `sampler` is a name in SAMPLERS; `guidance_interval` bounds σ/α.
        `latents` (B, C, h, w) replaces the standard normal draw. Raises UserError for what cannot
        be done.
        """
        refuse_output_type(output_type)
        steps = (
            self.defaults.num_inference_steps
            if num_inference_steps is None
            else num_inference_steps
        )
        scale = self.defaults.guidance_scale if guidance_scale is None else guidance_scale
        guidance = Guidance(scale, guidance_rescale, guidance_interval)
        options: Any = {"eta": eta} if eta else {}
        solver = sampler or self.spec.sampler
        if solver not in SAMPLERS:
            raise UserError(f"sampler {solver!r} is not one of {', '.join(SAMPLERS)}")
        if eta and "eta" not in signature(SAMPLERS[solver]).parameters:
            raise UserError(f"eta is DDIM's amount of noise, and sampler {solver!r} has none")
        levels = self.spec.levels(steps)
        shape = self.latent_shape(height, width)
        with evaluating(self.unet, self.vae, self.text_encoder):
            positive, negative = self.context(
                prompt, negative_prompt, num_images_per_prompt, guided=scale > 1
            )
            count = len(positive)
            draw = draws(generators(seed, generator, count), count, shape, self.device)
            start = draw(-1) if latents is None else latents.to(self.device).float()
            if start.shape != (count, *shape):
                raise UserError(f"latents are {tuple(start.shape)}, not {(count, *shape)}")
            network = self.network(positive, negative, guidance)
            x = self.spec.initial(start)
            states = self.spec.sample(network, x, steps, sampler=sampler, noise=draw, **options)
            x = self.run(states, x, levels, callback_on_step_end)
            return self.images(x, output_type)
