"""pipe("a red flower").images[0]"""

from collections.abc import Sequence

from torch import Generator, Tensor

from ldm.errors import UserError
from ldm.inference import evaluating
from pipelines.base import (
    Callback,
    LatentPipeline,
    Prompt,
)
from pipelines.pixels import Images, refuse_output_type
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
        guidance_interval: tuple[float, float] | None = None,
        pag_scale: float = 0.0,
        callback_on_step_end: Callback | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        sampler: str | None = None,
    ) -> Images:
        """Images for each prompt, `num_images_per_prompt` of each in a row.

        Steps, guidance and its interval default to what the model's folder says, else to
        diffusers' 50, 7.5 and all levels.
        `seed` s gives the i-th image of the call the seed s + i, so an image does not depend on the
        batch it was made in. `sampler` is a name in SAMPLERS. `guidance_interval` bounds the σ/α
        at which guidance acts, `pag_scale` adds perturbed-attention guidance, and `latents`
        (B, C, h, w) replaces the standard normal draw. Raises UserError for what cannot be done.
        """
        refuse_output_type(output_type)
        steps, guidance = self.settings(
            num_inference_steps, guidance_scale, guidance_interval, guidance_rescale, pag_scale
        )
        options = self.solver_options(sampler, eta)
        levels = self.spec.levels(steps)
        shape = self.latent_shape(height, width)
        with evaluating(self.unet, self.vae, self.text_encoder):
            positive, negative = self.context(
                prompt, negative_prompt, num_images_per_prompt, guided=guidance.scale > 1
            )
            network, count = self.network(positive, negative, guidance), len(positive)
            draw = draws(generators(seed, generator, count), count, shape, self.device)
            noise = draw(-1) if latents is None else latents.to(self.device).float()
            if noise.shape != (count, *shape):
                raise UserError(f"latents are {tuple(noise.shape)}, not {(count, *shape)}")
            x = self.spec.initial(noise)
            states = self.spec.sample(network, x, steps, sampler=sampler, noise=draw, **options)
            x = self.run(states, x, levels, callback_on_step_end)
            return self.images(x, output_type)
