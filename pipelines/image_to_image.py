"""pipe("a red flower", image=photo, strength=0.6).images[0]"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Generator, Tensor

from ldm.diffusion.grids import renoise
from ldm.errors import UserError
from ldm.inference import evaluating
from pipelines.base import Callback, LatentPipeline, Prompt
from pipelines.pixels import Images, encode, refuse_output_type
from pipelines.seeds import draws, generators


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
        guidance_scale: float | None = None,
        negative_prompt: Prompt = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generator | Sequence[Generator] | None = None,
        output_type: str = "pil",
        guidance_rescale: float = 0.0,
        callback_on_step_end: Callback | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        sampler: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
    ) -> Images:
        """Images for each prompt, starting from `image`: one for all prompts, or one for each.

        `image` is a PIL image, an array or a tensor as diffusers takes them, or a list. `strength`
        in (0, 1] is the share of the steps that are run: 1 keeps little of the image. The rest is
        as in TextToImagePipeline. Raises UserError for what cannot be done.
        """
        refuse_output_type(output_type)
        steps, guidance = self.settings(
            num_inference_steps, guidance_scale, guidance_interval, guidance_rescale
        )
        options = self.solver_options(sampler, eta)
        with evaluating(self.unet, self.vae, self.text_encoder):
            each = num_images_per_prompt
            positive, negative = self.context(
                prompt, negative_prompt, each, guided=guidance.scale > 1
            )
            count = len(positive)
            pixels = image_tensor(self, image, count // each).repeat_interleave(each, 0)
            shape = self.latent_shape(*pixels.shape[-2:])
            draw = draws(generators(seed, generator, count), count, shape, self.device)
            known = encode(self.vae, pixels, draw(-1))
            noise = draw(-1)
            levels = self.spec.levels(steps)
            refuse_strength(strength, steps)
            x, levels = renoise(known, noise, levels, strength)
            network = self.network(positive, negative, guidance)
            states = self.spec.sample(
                network, x, steps, sampler=sampler, noise=draw, levels=levels, **options
            )
            return self.images(self.run(states, x, levels, callback_on_step_end), output_type)


def refuse_strength(strength: float, steps: int) -> None:
    """Raise UserError where no step would be run, or more than there are."""
    if not 0 < strength <= 1 or int(steps * strength) < 1:
        raise UserError(
            f"strength={strength} of {steps} steps must be at most 1 and leave at least one step"
        )


def image_tensor(
    pipeline: LatentPipeline,
    image: Any,
    prompts: int,
    size: tuple[int | None, int | None] = (None, None),
) -> Tensor:
    """What a user gives as `image`, as (prompts, 3, H, W) in [-1, 1] on the pipeline's device.

    Resized to `size`; else its own, rounded down to what the autoencoder takes.
    """
    if image is None:
        raise UserError("image is missing: pass the picture to start from")
    processor = VaeImageProcessor(vae_scale_factor=pipeline.factor, do_convert_rgb=True)
    pixels = processor.preprocess(image, *size).to(pipeline.device, torch.float32)
    if len(pixels) not in (1, prompts):
        raise UserError(f"{len(pixels)} images for {prompts} prompts: pass one, or one for each")
    return pixels.expand(prompts, -1, -1, -1)
