"""pipe("a red flower", image=photo, mask_image=mask).images[0]"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.image_processor import VaeImageProcessor
from torch import Generator, Tensor

from ldm.diffusion.denoise import inpaint
from ldm.diffusion.grids import renoise
from ldm.errors import UserError
from ldm.inference import evaluating
from pipelines.base import Callback, LatentPipeline, Prompt
from pipelines.image_to_image import image_tensor, refuse_strength
from pipelines.pixels import Images, encode, refuse_output_type
from pipelines.seeds import draws, generators


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
        """Images for each prompt, repainted where `mask_image` is white.

        `image` and `mask_image` are PIL images, arrays or tensors as diffusers takes them, one for
        all prompts or one for each, resized to `height` × `width`, the model's own size unless
        given. `strength` below 1 lets the old content shine through. The rest is as in
        TextToImagePipeline. Raises UserError for what cannot be done.
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
            shape = self.latent_shape(height, width)
            size = (shape[1] * self.factor, shape[2] * self.factor)
            pixels = image_tensor(self, image, count // each, size).repeat_interleave(each, 0)
            mask = self._mask(mask_image, pixels[::each]).repeat_interleave(each, 0)
            draw = draws(generators(seed, generator, count), count, shape, self.device)
            known, noise = encode(self.vae, pixels, draw(-1)), draw(-1)
            levels = self.spec.levels(steps)
            refuse_strength(strength, steps)
            x = self.spec.initial(noise)
            if strength < 1:
                x, levels = renoise(known, noise, levels, strength)
            network = self.network(positive, negative, guidance)
            states = self.spec.sample(
                network,
                x,
                steps,
                sampler=sampler,
                noise=draw,
                levels=levels,
                wrap=partial(inpaint, known=known, noise=noise, mask=mask),
                **options,
            )
            x = self.run(states, x, levels, callback_on_step_end)
            return self.images(torch.lerp(known, x, mask), output_type)  # levels may end in noise

    def _mask(self, image: Any, pixels: Tensor) -> Tensor:
        """1 where a latent is to be painted: (B, 1, h, w) of 0 and 1, as diffusers samples it."""
        if image is None:
            raise UserError("mask_image is missing: pass a picture that is white where to paint")
        processor = VaeImageProcessor(
            vae_scale_factor=self.factor,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )
        mask = processor.preprocess(image, *pixels.shape[-2:]).to(pixels.device, torch.float32)
        if len(mask) not in (1, len(pixels)):
            raise UserError(f"{len(mask)} masks for {len(pixels)} images: pass one or as many")
        size = [side // self.factor for side in pixels.shape[-2:]]
        return F.interpolate(mask, size=size).expand(len(pixels), -1, -1, -1)
